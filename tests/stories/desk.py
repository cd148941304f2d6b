"""The terminals of a story, each in somebody's home, and what was recorded of them."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.stories.terminal import PROMPT, Output, Terminal

REPOSITORY = Path(__file__).parents[2]
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


@dataclass(frozen=True, slots=True)
class Moment:
    """Something worth looking at."""

    at: float
    seconds: float
    """For which a viewer should see it."""


@dataclass(frozen=True, slots=True)
class Take:
    """One terminal, from its opening to the end of the story. Times are monotonic."""

    title: str
    columns: int
    rows: int
    output: tuple[Output, ...]
    typed: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Recording:
    began: float
    ended: float
    takes: tuple[Take, ...]
    moments: tuple[Moment, ...]


class Desk:
    """Opens terminals and always closes them.

    Args:
        folder: where the homes are.
        settings: P2PTRAIN_* variables, for with which a test takes less time.
        pace: seconds between two typed characters.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, pace: float = 0.0) -> None:
        self._folder, self._settings, self._pace = folder, dict(settings or {}), pace
        self._terminals: list[tuple[str, Terminal]] = []
        self._moments: list[Moment] = []
        self._began = time.monotonic()

    def open(self, title: str, *, person: str = "otto", columns: int = 100, rows: int = 20) -> Terminal:
        """A shell at somebody's home, on a machine with nothing in it but p2ptrain."""
        home = self._folder / person
        home.mkdir(exist_ok=True)
        bash = shutil.which("bash")
        assert bash, "the stories are typed into bash"
        environment = {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(REPOSITORY),
            "PS1": PROMPT,
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "HISTFILE": "",
            "HF_HUB_OFFLINE": "1",
            "P2PTRAIN_LISTEN": LOOPBACK,
            "P2PTRAIN_NO_LAN": "1",
            "P2PTRAIN_THREADS": "1",
            **self._settings,
        }
        terminal = Terminal(
            [bash, "--norc", "--noprofile"],
            columns=columns,
            rows=rows,
            environment=environment,
            folder=home,
            pace=self._pace,
        )
        self._terminals.append((title, terminal))
        return terminal

    def look(self, seconds: float = 2.0) -> None:
        """Now is a moment that a viewer should see for so long."""
        self._moments.append(Moment(time.monotonic(), seconds))

    @property
    def commands(self) -> list[str]:
        """All that were typed."""
        return [command for _, terminal in self._terminals for _, command in terminal.typed]

    def texts(self) -> list[str]:
        """Everything that was ever written in each terminal."""
        return [terminal.text() for _, terminal in self._terminals]

    def recording(self) -> Recording:
        takes = [
            Take(title, terminal.columns, terminal.rows, tuple(terminal.output), tuple(terminal.typed))
            for title, terminal in self._terminals
        ]
        return Recording(self._began, time.monotonic(), tuple(takes), tuple(self._moments))

    def close(self) -> None:
        failures = []
        for _, terminal in self._terminals:
            try:
                terminal.close()
            except AssertionError as error:
                failures.append(str(error))
        assert not failures, "\n".join(failures)
