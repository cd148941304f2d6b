"""Standard output and standard error, which may fail while the program runs: the reader of a pipe goes away, the disk
fills up, the terminal is closed, or the program was started without them.

A failure of standard error is ignored: there is nobody left to tell. A failure of standard output ends a command, whose
purpose is what it prints. A program that has a better purpose, such as a peer that trains, calls `outlive`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging.handlers
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from p2ptrain.causes import NO_SPACE
from p2ptrain.errors import StorageError
from p2ptrain.text import reason_of

PIPE_CODE = 141
"""What a shell says of a program that was ended by SIGPIPE, 128 + 13."""
LOG_BYTES = 10_000_000
READER_GONE = (errno.EPIPE, errno.ECONNRESET)

Tell = Callable[[OSError], None]


class Outlet(io.FileIO):
    """The file below a standard stream. After the first failure it drops what is written.

    Args:
        lost: hears of the failure. What it raises, the writer gets.
    """

    def __init__(self, descriptor: int, lost: Tell) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._lost = [lost]
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                while (count := super().write(data)) is None:  # another process has made the pipe non-blocking
                    select.select([], [self], [])
                return count
            except OSError as error:
                self.failure = error  # first: `lost` may raise, and nothing is written again after that
                for lost in self._lost:
                    lost(error)
        return memoryview(data).nbytes

    def outlive(self, tell: Tell) -> None:
        """From now on a failure is no error: `tell` hears of it, now if it is there already."""
        self._lost = [each for each in self._lost if each is not _end]
        self._lost.append(tell)
        if self.failure is not None:
            tell(self.failure)


_stdout: Outlet | None = None
_stderr: TextIO | None = None
"""Both are None in a program that has not called `open_standard_streams`, e.g. one that uses the Python API."""


def open_standard_streams() -> None:
    """Call this first in a program. Nothing that the program opens later gets the number of a missing stream, so that
    e.g. a database is not overwritten by what somebody prints. Characters that a stream can't encode become '?'."""
    global _stdout, _stderr
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number: this one
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stdout is sys.__stdout__:  # a test may have replaced it
        _stdout = Outlet(1, _end)
        sys.stdout = _text(sys.stdout, _stdout, "replace")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stderr = _text(sys.stderr, Outlet(2, _ignore), "backslashreplace", by_lines=True)


def _text(old: TextIO | None, outlet: Outlet, errors: str, by_lines: bool = False) -> TextIO:
    encoding = "utf-8" if old is None else old.encoding
    by_lines = by_lines or outlet.isatty() or getattr(old, "write_through", False)
    return io.TextIOWrapper(io.BufferedWriter(outlet), encoding, errors, line_buffering=by_lines)


def _end(error: OSError) -> None:
    """End a command: without a word, as other programs do, if nobody reads on."""
    if error.errno in READER_GONE:
        raise SystemExit(PIPE_CODE)
    step = "free space there" if error.errno in (*NO_SPACE, errno.EFBIG) else "send the output somewhere else"
    raise StorageError("can't write to standard output", reason_of(error), step)


def _ignore(error: OSError) -> None:
    pass


def outlive(tell: Tell) -> None:
    """From now on the program goes on when standard output fails; `tell` hears of it once, on any thread."""
    if _stdout is not None:
        _stdout.outlive(tell)


def is_gone() -> bool:
    """Whether standard output has failed."""
    return _stdout is not None and _stdout.failure is not None


def close() -> None:
    """Call this last: what could not be printed until now is dropped."""
    outlive(_ignore)


def can_show(characters: str) -> bool:
    """Whether standard output has these characters."""
    try:
        characters.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def say_on_stderr(text: str) -> None:
    """Print a warning on standard error itself. A live table would print it on standard output, which may be gone."""
    print(f"warning: {text}", file=_stderr or sys.stderr, flush=True)


class LogFile(logging.handlers.RotatingFileHandler):
    """A log file; a new one begins every 10 MB. If it can't be written, e.g. because the disk is full, the program goes
    on, and `tell` hears why, once."""

    def __init__(self, path: Path, old_files: int, tell: Callable[[str], None]) -> None:
        super().__init__(
            path, maxBytes=LOG_BYTES, backupCount=old_files, encoding="utf-8", errors="backslashreplace", delay=True
        )
        self._tell: Callable[[str], None] | None = tell

    def handleError(self, record: logging.LogRecord) -> None:
        tell, self._tell = self._tell, None
        error = sys.exc_info()[1]
        if tell is not None and error is not None:
            tell(f"the log {self.baseFilename} can't be written: {reason_of(error)}")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()
