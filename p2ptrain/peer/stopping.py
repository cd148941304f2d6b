"""Ctrl-C once: finish the step, save, leave politely. Twice: quit now. SIGTERM is the first, with a deadline."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

TERM_DEADLINE = 25.0
QUIT_CODE = 130
SHOW_CURSOR = b"\x1b[?25h\n"


class Stopping:
    """Whether somebody has asked this process to stop. Make it on the main thread."""

    def __init__(self, doing: str = "finishing the step and saving") -> None:
        self._requests, self._doing = 0, doing
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._terminate)

    def requested(self) -> bool:
        return self._requests > 0

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._requests += 1
        if self._requests > 1:
            quit_now()
        print(f"\n{self._doing}; Ctrl-C again quits at once", file=sys.stderr, flush=True)

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._requests += 1
        deadline = threading.Timer(TERM_DEADLINE, quit_now)
        deadline.daemon = True
        deadline.start()


def quit_now() -> None:
    """End without saving. p2pd ends by itself as soon as its control connection is gone."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), SHOW_CURSOR)  # a live table hides it, and is not asked any more
    os._exit(QUIT_CODE)
