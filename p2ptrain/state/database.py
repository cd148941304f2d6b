"""The SQLite file of a ledger: one writer, a reader that does not wait for it, the check of its format, and damage.

Any thread may call it. A write is one transaction, and it is on the disk before the call returns. After a crash or a
power loss a write is there as a whole or not at all; all earlier writes are there.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from p2ptrain.errors import StorageError
from p2ptrain.state.schema import FORMAT, SCHEMA


class DamagedError(StorageError):
    """A file does not hold what was written to it."""


class Database:
    """One open file.

    Args:
        path: the file.
        owned: True for the one process that may create the file and write to it. It checks the structure of the whole
            file first: once that has passed, reads and writes work.

    Raises:
        DamagedError: the file does not hold what was written to it. Every method can raise this.
        StorageError: the disk is full, the file is locked or missing, or it has another format.
    """

    def __init__(self, path: Path, owned: bool) -> None:
        self.path = path
        self.made = False
        """Whether the file was new or empty."""
        if not owned and not path.is_file():
            raise StorageError(f"{path} is missing", "", "start the peer in its folder: it fetches what is missing")
        self._lock, self._reading = threading.Lock(), threading.Lock()
        with contextlib.ExitStack() as stack, self._explained():
            self._db = _connect(path)
            stack.callback(self._db.close)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # what this peer has told others must survive a power loss
            self._check_format(owned)
            if owned:
                self._check_structure()
            self._reader = _connect(path)
            stack.pop_all()

    def _check_format(self, owned: bool) -> None:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        self.made = found == 0
        if self.made and not owned:
            raise StorageError(f"{self.path} is empty", "", "start the peer in its folder: it fetches what is missing")
        if self.made:
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        elif found != FORMAT:
            anew = "start or join the run anew, or use the version of p2ptrain that wrote the folder"
            what, why = f"{self.path} has storage format", f"this version of p2ptrain reads format {FORMAT} only"
            raise StorageError(f"{what} {found}", why, "update p2ptrain" if found > FORMAT else anew)

    def _check_structure(self) -> None:
        (found,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()  # `quick_check` would not look at indexes
        if found != "ok":
            raise sqlite3.DatabaseError(str(found).replace("\n", " "))
        with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
            fresh.executescript(SCHEMA)
            if _columns(self._db) != _columns(fresh):
                raise sqlite3.DatabaseError("the names of its tables and columns are damaged")

    def close(self) -> None:
        with self._lock, self._reading:
            self._reader.close()
            self._db.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        with self._reading, self._explained():
            yield self._reader

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:  # a full disk makes SQLite roll back by itself
                    self._db.execute("ROLLBACK")

    def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """All rows that a query finds."""
        with self.read() as db:
            return db.execute(query, arguments).fetchall()

    def value(self, query: str, *arguments: object) -> bytes | None:
        """The first column of the first row; None if there is no row, or it holds something else than bytes."""
        rows = self.rows(query, *arguments)
        return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the second: SQLite's error text quotes damaged bytes
            what, why = f"the ledger {self.path} can't be used", str(error)
            # A full or locked disk is an OperationalError. A plain DatabaseError means that the content is damaged.
            if type(error) in (sqlite3.DatabaseError, UnicodeDecodeError):
                next_step = "start the peer again: it puts the file aside and fetches the run anew"
                raise DamagedError(what, why, next_step) from None
            raise StorageError(what, why, _next_step(why)) from None


def _next_step(why: str) -> str:
    """What helps, by SQLite's words."""
    room = "free some disk space and start the peer again: nothing that was saved is lost"
    if "full" in why:
        return room
    if "disk I/O" in why or "locking protocol" in why:
        return f"{room}; if there is room, choose a folder on a disk of this machine with --home"
    if "locked" in why:
        return "end the other process that has it open, and try again"
    return "check that the folder is readable and writable, and try again"


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    db.text_factory = lambda text: text.decode(errors="replace")  # damaged text is read as other text
    return db


def _columns(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    """The columns of all tables."""
    query = "SELECT m.name, c.name, c.type, c.pk FROM sqlite_master m, pragma_table_info(m.name) c ORDER BY 1, 2"
    return db.execute(query).fetchall()
