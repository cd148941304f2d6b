"""How signals stop a peer. The first Ctrl-C: finish the step, save and say goodbye. The second: quit at once. SIGTERM
does the same as the first, and quits after 25 seconds.

Python runs signal handlers on the main thread, where a backward pass may take half a minute. So a thread of its own
waits for signals here, and reacts at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

TERM_DEADLINE = 25.0
QUIT_CODE = 130
SHOW_CURSOR = b"\x1b[?25h\n"


class Stopping:
    """Knows whether somebody has asked this process to stop. Make one per process, on the main thread.

    Args:
        doing: what the process does after the first Ctrl-C, for the message.
    """

    def __init__(self, doing: str = "finishing the step and saving") -> None:
        self._requests, self._doing = 0, doing
        self._heard, heard = os.pipe()
        os.set_blocking(heard, False)
        signal.set_wakeup_fd(heard)
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a child's signals are its own
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: None)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def requested(self) -> bool:
        return self._requests > 0

    def _listen(self) -> None:
        while True:
            for number in os.read(self._heard, 64):
                if number == signal.SIGINT:
                    self._interrupt()
                elif number == signal.SIGTERM:
                    self._terminate()

    def _interrupt(self) -> None:
        self._requests += 1
        if self._requests > 1:
            quit_now()
        print(f"\n{self._doing}; Ctrl-C again quits at once", file=sys.stderr, flush=True)

    def _terminate(self) -> None:
        self._requests += 1
        deadline = threading.Timer(TERM_DEADLINE, quit_now)
        deadline.daemon = True
        deadline.start()


def quit_now() -> None:
    """End without saving. p2pd ends by itself when its control connection is gone."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), SHOW_CURSOR)  # a live table has hidden the cursor, and can't show it any more
    os._exit(QUIT_CODE)
