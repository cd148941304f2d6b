"""How signals stop a process. Ctrl-C and SIGTERM, and SIGHUP when a terminal is closed, ask it to stop.

While it loads, nothing is lost by a stop: KeyboardInterrupt is raised on the main thread, and if that does not react,
because a library is busy or has caught it, the process quits after three seconds. Once it trains (`finish_steps`), the
main thread only learns that it was asked: it finishes the step and saves, within 25 seconds after SIGTERM and SIGHUP. A
second Ctrl-C quits at once, always.

Python runs signal handlers on the main thread, where a backward pass may take half a minute. So a thread of its own
waits for signals here, and reacts at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Collection
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REACT_SECONDS = 3.0
LEAVE_SECONDS = 10.0
TERM_DEADLINE = 25.0
QUIT_CODE = 130
SHOW_CURSOR = b"\x1b[?25h\n"


class Stopping:
    """Knows whether somebody has asked this process to stop. Use it in a `with` block on the main thread.

    Args:
        finishing: what the process does after the first Ctrl-C once it trains, for the message.
        quiet: for commands that tidy up in any case: say nothing, and let the main thread take its time.
        signals: those that are heard. SIGHUP stays ignored if it is: then the process was started by nohup.
    """

    def __init__(
        self,
        finishing: str = "finishing the step and saving",
        *,
        quiet: bool = False,
        signals: Collection[signal.Signals] = SIGNALS,
    ) -> None:
        self._finishing, self._quiet, self._signals = finishing, quiet, signals
        self._requests, self._asked, self._raises = 0, False, True
        self._reacted = False
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self.last_words = ""
        """Printed if the process has to quit while it loads."""

    def __enter__(self) -> Stopping:
        self._heard, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        self._before: dict[signal.Signals, Any] = {}
        self._heard_before = signal.set_wakeup_fd(self._tell, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._let_child_be)
        threading.Thread(target=self._listen, args=(self._heard,), name="signals", daemon=True).start()
        for number in self._signals:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._heard_before)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        with self._lock:
            self._cancel()
        os.close(self._tell)  # ends the thread

    def requested(self) -> bool:
        return self._asked

    def finish_steps(self) -> None:
        """From now on a stop would lose something: the main thread is not interrupted any more."""
        with self._lock:
            self._raises = False
            self._cancel()

    def leave(self) -> None:
        """The main thread has reacted, and leaves now; it gets a moment for that."""
        with self._lock:
            self._reacted = True
            self._quit_after(LEAVE_SECONDS)

    # On the main thread ----------------------------------------------------------------------------------------------

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        first, self._asked = not self._asked, True
        if self._raises and first:  # only once: what unwinds is not interrupted
            if self._quiet and _is_importing(frame):
                quit_now()
            raise KeyboardInterrupt

    def _let_child_be(self) -> None:
        """In a forked process: its signals are its own, and end it as they end any process."""
        if self._before:
            signal.set_wakeup_fd(-1)
            for number in self._before:
                signal.signal(number, signal.SIG_DFL)

    # On the listening thread -----------------------------------------------------------------------------------------

    def _listen(self, heard: int) -> None:
        while numbers := os.read(heard, 64):
            for number in numbers:
                if number in self._before:
                    self._hear(number)
        os.close(heard)

    def _hear(self, number: int) -> None:
        self._requests, self._asked = self._requests + 1, self._asked or not self._raises
        if number == signal.SIGINT:
            if self._requests > 1:
                quit_now()
            if not self._quiet:
                doing = "leaving" if self._raises else self._finishing
                print(f"\n{doing}; Ctrl-C again quits at once", file=sys.stderr, flush=True)
        with self._lock:
            if self._requests > 1 or self._quiet or self._reacted:
                return
            if self._raises:
                self._quit_after(REACT_SECONDS)
            elif number != signal.SIGINT:
                self._quit_after(TERM_DEADLINE)

    # With the lock ---------------------------------------------------------------------------------------------------

    def _quit_after(self, seconds: float) -> None:
        self._cancel()
        self._timer = threading.Timer(seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # On the timer's thread -------------------------------------------------------------------------------------------

    def _give_up(self) -> None:
        if self._raises and self.last_words:
            print(self.last_words, file=sys.stderr, flush=True)
        quit_now()


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported. There is nothing to tidy up then, and torch aborts with a core dump if an
    exception is raised while it is imported."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def quit_now() -> None:
    """End without saving. p2pd ends by itself when its control connection is gone."""
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone must not keep the process
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), SHOW_CURSOR)  # a live table has hidden the cursor, and can't show it any more
    os._exit(QUIT_CODE)
