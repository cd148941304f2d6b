"""A machine that can die at any operation on its disk, and whose threads take turns as the test decides.

Each operation on files and each COMMIT of the ledger is a step. Before any step another thread may go on, or the
machine ends: then nothing in memory counts any more, and nobody writes another byte. A power loss also takes what the
disk had not yet been told to keep: names since their folder was last synced, and the content of files that were not.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

from p2ptrain.diloco import snapshots
from p2ptrain.method import shelf
from p2ptrain.state import database, vectors

MOST_VAIN_TURNS = 1000
"""Of threads that wait for each other, until it counts as a deadlock."""

Choose = Callable[[int], int]
"""A number from 0 to the one given."""


class Crash(BaseException):
    """The process ends here; nothing that a handler of errors does may reach the disk."""


class Strands:
    """Threads of which one runs at a time.

    Args:
        turns: the points, counted from 1, at which the next thread goes on; where a lock is taken is one, too.
    """

    def __init__(self, turns: Collection[int] = ()) -> None:
        self._turns, self._steps, self._vain = turns, 0, 0
        self._moved = threading.Condition()
        self._running: list[int] = []
        self._errors: list[BaseException] = []

    def run(self, *programs: Callable[[], object]) -> None:
        """Run them all to their ends; the first one begins.

        Raises:
            Whatever one of them raised first: the others end with a `Crash` at their next step.
        """
        threads = [threading.Thread(target=self._strand, args=(program,), daemon=True) for program in programs]
        with self._moved:
            for thread in threads:
                thread.start()
                assert thread.ident is not None
                self._running.append(thread.ident)
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _strand(self, program: Callable[[], object]) -> None:
        try:
            with self._moved:
                self._wait_for_turn()
            program()
        except BaseException as error:
            self._errors.append(error)
        finally:
            with self._moved:
                self._running.remove(threading.get_ident())
                self._moved.notify_all()

    def step(self) -> None:
        """Another thread may go on now."""
        if self._errors:
            raise Crash
        self._steps += 1
        self._vain = 0
        if self._steps in self._turns:
            self._pass_on()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Let the others go on until it holds."""
        while not condition():
            self._vain += 1
            if self._vain > MOST_VAIN_TURNS:
                raise AssertionError("the threads wait for each other")
            self._pass_on()

    def _pass_on(self) -> None:
        with self._moved:
            if threading.get_ident() not in self._running:
                return  # nothing else runs
            self._running.append(self._running.pop(0))
            self._moved.notify_all()
            self._wait_for_turn()
        if self._errors:
            raise Crash

    def _wait_for_turn(self) -> None:
        self._moved.wait_for(lambda: self._running[0] == threading.get_ident())

    # In place of the module `threading`, where this is put there:

    def Lock(self) -> TurnLock:
        return TurnLock(self)

    def RLock(self) -> TurnLock:
        return TurnLock(self, again=True)


class TurnLock:
    """A lock between strands: who waits for it lets the others go on."""

    def __init__(self, strands: Strands, again: bool = False) -> None:
        self._strands, self._again = strands, again
        self._owner, self._depth = 0, 0

    def __enter__(self) -> Self:
        me = threading.get_ident()
        if not (self._again and self._owner == me):
            self._strands.step()
            self._strands.wait_until(lambda: self._owner == 0)
        self._owner, self._depth = me, self._depth + 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = 0


@dataclass
class Disk:
    """A folder, and what a power loss can take back: what was done to names in it, and content that was not synced."""

    folder: Path
    kept: Path
    """A folder for what is replaced or deleted."""
    names: dict[int, list[Callable[[], None]]] = field(default_factory=lambda: defaultdict(list))
    """How to undo each change of a name, oldest first, by the inode of the name's folder."""
    synced: set[int] = field(default_factory=set)
    """Files whose content is safe, by inode."""

    def note_replaced(self, source: Path, target: Path) -> None:
        old = self._keep(target)

        def undo() -> None:
            target.rename(source)
            if old is not None:
                target.hardlink_to(old)

        self.names[target.parent.stat().st_ino].append(undo)

    def note_unlinked(self, path: Path) -> None:
        old = self._keep(path)
        if old is not None:
            self.names[path.parent.stat().st_ino].append(lambda: path.hardlink_to(old))

    def note_written(self, descriptor: int) -> None:
        self.synced.discard(os.fstat(descriptor).st_ino)

    def note_synced(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self.names.pop(found.st_ino, None)
        else:
            self.synced.add(found.st_ino)

    def lose_power(self, choose: Choose) -> None:
        """Gone are some of the newest changes of names in each folder, and some of the end of each file that was not
        synced. The ledger's own files are SQLite's business."""
        for undos in self.names.values():
            for undo in undos[::-1][: choose(len(undos))]:
                undo()
        self.names.clear()
        for path in self.folder.rglob("*"):
            if path.is_file() and "ledger.sqlite" not in path.name and path.stat().st_ino not in self.synced:
                os.truncate(path, choose(path.stat().st_size))
                self.synced.add(path.stat().st_ino)

    def _keep(self, path: Path) -> Path | None:
        if not path.exists():
            return None
        kept = self.kept / str(len(list(self.kept.iterdir())))
        kept.hardlink_to(path)
        return kept


class Machine:
    """Use it in a `with` block: what is done to the disk inside happens on this machine.

    Args:
        dies_at: the step, counted from 1, at which it ends.
        turns: where, among steps and locks, another of its threads goes on.
    """

    def __init__(self, disk: Disk, dies_at: int | None = None, turns: Collection[int] = ()) -> None:
        self._disk, self._dies_at = disk, dies_at
        self.threads = Strands(turns)
        self.steps, self.died = 0, False
        self._connections: list[sqlite3.Connection] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        real_open, real_connect = Path.open, sqlite3.connect
        replacements: list[tuple[Any, str, Any]] = [
            (os, "fsync", self._fsync),
            (os, "replace", self._step_before(os.replace, self._disk.note_replaced)),
            (os, "unlink", self._step_before(os.unlink, self._disk.note_unlinked)),
            (Path, "open", lambda path, *args, **named: self._open(real_open, path, *args, **named)),
            (sqlite3, "connect", lambda *args, **named: self._connect(real_connect, *args, **named)),
            *((module, "threading", self.threads) for module in (database, shelf, snapshots, vectors)),
        ]
        for target, name, replacement in replacements:
            self._stack.enter_context(patch.object(target, name, replacement, create=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for connection in self._connections:
            connection.close()  # what was not committed is gone

    def step(self) -> None:
        self.threads.step()
        self.steps += 1
        if self.died or self.steps == self._dies_at:
            self.died = True
            raise Crash

    def _step_before(self, real: Callable[..., None], note: Callable[..., None]) -> Callable[..., None]:
        def operation(*paths: Path) -> None:
            self.step()
            note(*map(Path, paths))
            real(*paths)

        return operation

    def _fsync(self, descriptor: int) -> None:
        self.step()
        self._disk.note_synced(descriptor)

    def _open(self, real: Callable[..., Any], path: Path, mode: str = "r", *args: Any, **named: Any) -> Any:
        if "w" not in mode:
            return real(path, mode, *args, **named)
        self.step()
        file = real(path, mode, *args, **named)
        self._disk.note_written(file.fileno())
        return file

    def _connect(self, real: Callable[..., sqlite3.Connection], *args: Any, **named: Any) -> sqlite3.Connection:
        machine = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                if sql == "COMMIT":
                    machine.step()
                return super().execute(sql, *arguments)

            def executescript(self, script: str) -> sqlite3.Cursor:
                machine.step()
                return super().executescript(script)

        connection = real(*args, **named, factory=Connection)
        self._connections.append(connection)
        return connection
