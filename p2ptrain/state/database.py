"""The SQLite file under a ledger: one writer, a reader that waits for no write, versions and damage.

Any thread may call it. A write is one transaction and is synced to the disk before the call returns: after a crash or
a power loss it is there whole or not at all, and so is everything that was written before it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from p2ptrain.errors import StorageError
from p2ptrain.state.schema import FORMAT, MIGRATIONS, OLDEST_FORMAT, SCHEMA

_OTHER_NAMES = "the names of its tables and columns are damaged"


class DamagedError(StorageError):
    """A file does not hold what was written to it."""


class Database:
    """One open file.

    Args:
        owned: this process is the one that may make the file, bring it to today's format and write to it. It looks at
            all of the file's structure first: whoever gets past that can read and write.

    Raises:
        DamagedError: the file is not what it was; from every method.
        StorageError: the disk is full, the file is locked, or its format is not one of those that are read here.
    """

    def __init__(self, path: Path, owned: bool) -> None:
        self.path = path
        self.made = False
        """Whether there was nothing in the file, not even tables."""
        if not owned and not path.is_file():
            raise StorageError(f"{path} is missing", "", "start the peer in its folder: it fetches what is missing")
        self._lock, self._reading = threading.Lock(), threading.Lock()
        with contextlib.ExitStack() as stack, self._explained():
            self._db = _connect(path)
            stack.callback(self._db.close)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # what others were told must be there after a power loss
            self._check_format(owned)
            if owned:
                self._check_structure()
            self._reader = _connect(path)
            stack.pop_all()

    def _check_format(self, owned: bool) -> None:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found and not OLDEST_FORMAT <= found <= FORMAT:
            raise StorageError(
                f"{self.path} has storage format {found}",
                f"this p2ptrain reads formats {OLDEST_FORMAT} to {FORMAT}",
                f"use {'a newer' if found > FORMAT else 'an older'} p2ptrain",
            )
        if found < FORMAT and not owned:
            raise StorageError(
                f"{self.path} has storage format {found}",
                f"only its own peer may bring it to format {FORMAT}",
                f"start that once: p2ptrain peer {self.path.parent}",
            )
        self.made = found == 0
        if found == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        elif found < FORMAT:
            self._migrate(found)

    def _check_structure(self) -> None:
        (found,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()  # `quick_check` would not look at indexes
        if found != "ok":
            raise sqlite3.DatabaseError(str(found).replace("\n", " "))
        with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
            fresh.executescript(SCHEMA)
            if _columns(self._db) != _columns(fresh):
                raise sqlite3.DatabaseError(_OTHER_NAMES)

    def _migrate(self, found: int) -> None:
        """From one format to the next until it is today's: all of it or, if this process dies, nothing."""
        self._db.execute("BEGIN EXCLUSIVE")
        try:
            for version in range(found, FORMAT):
                MIGRATIONS[version](self._db, self.path.parent)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "no such" in str(error):  # not the state of the disk: what should be in the file is not
                raise sqlite3.DatabaseError(_OTHER_NAMES) from None
            raise
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

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

    def value(self, query: str, *arguments: object) -> bytes | None:
        """The first column of the first row."""
        with self.read() as db:
            row = db.execute(query, arguments).fetchone()
        return row[0] if row is not None and isinstance(row[0], bytes) else None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: an error that quotes what is damaged
            what, why = f"the ledger {self.path} can't be used", str(error)
            # SQLite's own errors for states of the disk are OperationalError; what is left means broken content.
            if type(error) in (sqlite3.DatabaseError, UnicodeDecodeError):
                next_step = "start the peer again: it puts the file aside and fetches the run anew"
                raise DamagedError(what, why, next_step) from None
            next_step = "check that the folder is readable and writable, and try again"
            if "full" in why or "disk I/O" in why:
                next_step = "free some disk space and start the peer again: nothing that was saved is lost"
            elif "locked" in why:
                next_step = "end the other process that has it open, and try again"
            raise StorageError(what, why, next_step) from None


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    db.text_factory = lambda text: text.decode(errors="replace")  # damaged text is read, and is not what was stored
    return db


def _columns(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    """All tables' columns."""
    query = "SELECT m.name, c.name, c.type, c.pk FROM sqlite_master m, pragma_table_info(m.name) c ORDER BY 1, 2"
    return db.execute(query).fetchall()
