"""Processes of one benchmark, each with a part of its own: started, asked by lines, and always ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psutil

SILENCE = 600.0
END_SECONDS = 60.0


class Role:
    """A process of a benchmark: a module that gets the role's name and what it needs as arguments.

    It prints a line of JSON when it has started, and then one for each line that it reads. It ends with its input.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # so Ctrl-C in a terminal reaches only the benchmark, which ends the others
        )
        self._owed = 1
        """Lines that the process still has to print."""
        self._descendants: list[psutil.Process] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def order(self, line: str = "") -> None:
        """Ask for something. Call `answer` once for each order."""
        assert self._process.stdin is not None
        self._owed += 1
        with contextlib.suppress(BrokenPipeError):  # the process has ended; `answer` says so
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """The next line that the process prints. Raises SystemExit if the process has ended or stays silent."""
        deadline, line = time.monotonic() + SILENCE, ""
        while not line and time.monotonic() < deadline:
            ended = self._process.poll() is not None  # what it has forked may hold its output open
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=1.0)
            if not line and ended:
                raise SystemExit(f"a process of the benchmark ended: {self._process.args}")
        if not line:
            raise SystemExit(f"a process of the benchmark is silent: {self._process.args}")
        self._owed -= 1
        return json.loads(line)

    def ask(self, line: str = "") -> Any:
        self.order(line)
        return self.answer()

    def hang_up(self) -> None:
        """Let the process end by itself. One that still owes an answer would not notice, and is killed."""
        assert self._process.stdin is not None
        if self._process.poll() is None and not self._process.stdin.closed:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._descendants = psutil.Process(self._process.pid).children(recursive=True)
            if self._owed:
                self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self) -> None:
        """End the process and everything that it has started."""
        self.hang_up()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # what hivemind has forked may outlive it
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in self._descendants:  # our p2pd has a session of its own
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._reader.join(5)

    def __enter__(self) -> Role:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# In the process itself ------------------------------------------------------------------------------------------------


def tell(**facts: Any) -> None:
    """Print the line that a `Role` waits for."""
    print(json.dumps(facts), flush=True)


def orders() -> Iterator[list[str]]:
    """The words of each line that a `Role` was asked."""
    return (line.split() for line in sys.stdin)


def rest() -> None:
    """Return when the `Role` hangs up."""
    sys.stdin.read()
