"""A program in a pseudo-terminal, used as a person does: type, look at the screen, wait for something to appear."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pyte
from pyte.screens import Char

PROMPT = "$ "
KEYS = {"Enter": "\r", "Ctrl-C": "\x03"}
PASTED = re.compile(r"(p2ptrain://\S+|~/\S+)")
"""What nobody types."""
END_SECONDS = 10.0

T = TypeVar("T")


class Screen(pyte.Screen):
    """pyte's, with a scrollback. It remembers which rows go on in the next one only because the line was too long:
    copied from a terminal, such rows are one line."""

    def __init__(self, columns: int, rows: int) -> None:
        self.gone: list[dict[int, Char]] = []
        """The rows that have left at the top."""
        self._wraps = False
        super().__init__(columns, rows)

    @property
    def height(self) -> int:
        """Rows so far, down to the cursor's."""
        return len(self.gone) + self.cursor.y + 1

    def row(self, y: int) -> str:
        return self._text(self.buffer[y])

    def text(self, first: int = 0) -> str:
        """What there is from that row on, counted from the very first one; a long line is one line."""
        parts = []
        for row in [*self.gone, *(self.buffer[y] for y in range(self.lines))][first:]:
            text = self._text(row)
            parts.append(text if getattr(row, "wrapped", False) and len(text) == self.columns else text.rstrip() + "\n")
        return "".join(parts).rstrip("\n")

    def _text(self, row: dict[int, Char]) -> str:
        return "".join(row[x].data for x in range(self.columns))

    # What pyte calls as output comes in ------------------------------------------------------------------------------

    def draw(self, data: str) -> None:
        self._wraps = True
        super().draw(data)
        self._wraps = False

    def linefeed(self) -> None:
        row = self.buffer[self.cursor.y]
        row.wrapped = self._wraps  # type: ignore[attr-defined]
        super().linefeed()

    def index(self) -> None:
        if self.cursor.y == self.lines - 1:
            self.gone.append(self.buffer[0])
        super().index()


@dataclass(frozen=True, slots=True)
class Output:
    """What the terminal showed next."""

    at: float
    """Monotonic time."""
    data: bytes


class Terminal:
    """One window with a shell, or any other program, in it.

    Args:
        columns, rows: its size.
        environment: all of the program's environment.
        folder: where it starts.
        pace: seconds between two typed characters.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int,
        rows: int,
        environment: Mapping[str, str],
        folder: Path,
        pace: float = 0.0,
    ) -> None:
        self.columns, self.rows = columns, rows
        self.output: list[Output] = []
        self.typed: list[tuple[float, str]] = []
        """Commands, and when they were sent off."""
        self._screen = Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._pace, self._since = pace, 0
        self._changed = threading.Condition()
        self._is_open = True
        self._master, slave = os.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        self._process = subprocess.Popen(
            command, env=environment, cwd=folder, preexec_fn=functools.partial(os.login_tty, slave)
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # Hands -----------------------------------------------------------------------------------------------------------

    def run(self, command: str) -> None:
        """Type a command at the prompt, and Enter. Later waits see what comes from here on."""
        self.wait_for_prompt()
        with self._changed:
            self._since = self._screen.height - 1
        for part in PASTED.split(command):
            for keys in [part] if PASTED.fullmatch(part) else part:
                self._send(keys)
                time.sleep(self._pace)
        self._wait(lambda: f"{PROMPT}{command}" == self._screen.text(self._since), f"the command {command!r}", 10.0)
        self.typed.append((time.monotonic(), command))
        self.press("Enter")

    def press(self, key: str) -> None:
        self._send(KEYS[key])

    def _send(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    # Eyes ------------------------------------------------------------------------------------------------------------

    def wait_for(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:
        """The first match in what is on the screen, and above it down from the last command. Long lines are whole."""
        return self.wait_until(lambda text: re.search(pattern, text, re.M), repr(pattern), timeout)

    def wait_until(self, look: Callable[[str], T], what: str, timeout: float = 60.0) -> T:
        """What `look` finds in the same text, as soon as it finds something.

        Raises:
            AssertionError: it has found nothing when the time is over, or when the command has ended.
        """
        return self._wait(lambda: look(self._screen.text(self._since)), what, timeout, self._is_at_prompt)

    def wait_for_prompt(self, timeout: float = 60.0) -> None:
        """Until the shell waits for the next command."""
        self._wait(self._is_at_prompt, "the prompt", timeout)

    def text(self) -> str:
        """Everything that was ever written here and not overwritten."""
        with self._changed:
            return self._screen.text()

    def _wait(
        self, look: Callable[[], T], what: str, timeout: float, has_ended: Callable[[], bool] = lambda: False
    ) -> T:
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (found := look()):
                left = deadline - time.monotonic()
                is_over = not self._is_open or has_ended()
                if left <= 0 or is_over:
                    when = "before the program ended" if is_over else f"within {timeout:.0f} s"
                    raise AssertionError(f"{what} did not appear {when}; the screen:\n{self._framed()}")
                self._changed.wait(left)
            return found

    def _is_at_prompt(self) -> bool:
        """Whether the shell waits for the next command."""
        screen = self._screen
        is_next = not self.typed or screen.height - 1 > self._since
        return is_next and screen.cursor.x == len(PROMPT) and screen.row(screen.cursor.y).rstrip() == PROMPT.rstrip()

    def _framed(self) -> str:
        edge = "─" * self.columns
        rows = [f"│{self._screen.row(y)}│" for y in range(self.rows)]
        return "\n".join([f"┌{edge}┐", *rows, f"└{edge}┘"])

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while data := os.read(self._master, 65536):
                with self._changed:
                    self.output.append(Output(time.monotonic(), data))
                    self._stream.feed(data)
                    self._changed.notify_all()
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    # The end ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Kill what runs here, as closing the window does, only surely.

        Raises:
            AssertionError: something that was started here is left, in a session of its own; now it is killed, too.
        """
        members = [process for process in psutil.process_iter() if self._is_here(process)]
        started = [*members, *(child for process in members for child in children_of(process))]
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        left = survivors(started)
        for process in left:
            process.kill()
        survivors(left)
        self._reader.join(END_SECONDS)
        os.close(self._master)
        assert not left, f"still running {END_SECONDS:.0f} s after their terminal was closed: {left}"

    def _is_here(self, process: psutil.Process) -> bool:
        """Whether it belongs to this terminal: the shell, its jobs and their children."""
        try:
            return os.getsid(process.pid) == self._process.pid
        except (ProcessLookupError, PermissionError):
            return False


def children_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children()
    except psutil.NoSuchProcess:
        return []
    return found


def survivors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended within the time that a p2pd takes to notice that its peer has gone."""
    deadline = time.monotonic() + END_SECONDS
    while (left := [process for process in processes if is_running(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
