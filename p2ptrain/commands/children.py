"""Other `p2ptrain` processes that this one starts, reads and always ends."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from p2ptrain.errors import P2PTrainError

STOP_SECONDS = 30.0

Line = dict[str, Any]


class Child:
    """One `p2ptrain` command with --json in a process of its own. Its lines arrive in the queue `lines`."""

    def __init__(
        self, name: str, arguments: Sequence[str], home: Path, lines: queue.SimpleQueue[tuple[str, Line]]
    ) -> None:
        self.name = name
        self.error_file = home / f"{name}.err"
        command = [sys.executable, "-m", "p2ptrain", *arguments, "--json"]
        own = {name: value for name, value in os.environ.items() if not name.startswith("P2PTRAIN_")}
        environment = {**own, "P2PTRAIN_HOME": str(home)}  # only one peer can use the user's identity or port
        with self.error_file.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        self._lines = lines
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put((self.name, json.loads(line)))
        self._lines.put((self.name, {"event": "ended", "code": self._process.wait()}))

    def stop(self) -> None:
        """Ask the process to end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def reap(self) -> None:
        """Wait for the process to end; kill it if it takes longer than `STOP_SECONDS`."""
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(1.0)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Children:
    """Several processes. Use it in a `with` block on the main thread: the block ends them all, also after SIGTERM
    and when the terminal is closed."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._lines: queue.SimpleQueue[tuple[str, Line]] = queue.SimpleQueue()
        self._children: dict[str, Child] = {}

    def start(self, name: str, *arguments: str) -> None:
        self._children[name] = Child(name, arguments, self._home, self._lines)

    def lines(self, timeout: float) -> Iterator[tuple[str, Line]]:
        """Pairs (name, line) of all processes, as the lines arrive. Raises P2PTrainError if a process failed, or none
        printed a line for `timeout` seconds."""
        while True:
            try:
                name, line = self._lines.get(timeout=timeout)
            except queue.Empty:
                why, step = (
                    f"none of them printed a line for {timeout:.0f} s",
                    f"read their errors in {self._home}/*.err",
                )
                raise P2PTrainError("the processes went silent", why, step) from None
            if name not in self._children:
                continue  # the process was stopped
            if line["event"] == "ended" and line["code"] not in (0, -signal.SIGTERM):
                told = self._children[name].error_file.read_text().strip()
                raise P2PTrainError(f"the process {name!r} failed", told or f"exit code {line['code']}")
            yield name, line

    def stop(self, *names: str) -> None:
        for name in names:
            self._children[name].stop()
        for name in names:
            self._children.pop(name).reap()

    def __enter__(self) -> Children:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        for number, handler in self._handlers.items():
            if handler != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda number, _frame: sys.exit(128 + number))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(*self._children)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
