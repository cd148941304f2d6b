"""One run's ledger on disk: commits, contributions' bytes, snapshots and where the head is, in SQLite.

The ledger knows digests, heights and bytes; what they mean is the method's business. Any thread may call it. Writes
wait for one another and are one transaction each: after a crash a write is there whole or not at all. Reads have a
connection of their own and wait for no write, so that the network thread may read.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.errors import StorageError
from p2ptrain.run import Digest

FORMAT = 1
_SCHEMA = """
CREATE TABLE commits (
    digest BLOB PRIMARY KEY, height INTEGER NOT NULL, parent BLOB NOT NULL, record BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX commits_by_height ON commits (height);
CREATE TABLE payloads (digest BLOB PRIMARY KEY, height INTEGER NOT NULL, bytes BLOB NOT NULL);
CREATE INDEX payloads_by_height ON payloads (height);
CREATE TABLE snapshots (
    state BLOB PRIMARY KEY, height INTEGER NOT NULL, manifest BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One complete snapshot on disk: the digest of its state, and the manifest that the digest names."""

    state: Digest
    height: int
    manifest: bytes


class Ledger:
    """The SQLite file of one run.

    Raises:
        StorageError: from every method, if the disk is full or the file damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock, self._reading = threading.Lock(), threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found == 0:
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
            self._reader = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as error:
            raise self._broken(error) from None
        if found not in (0, FORMAT):
            raise StorageError(
                f"{path} has storage format {found}", f"this p2ptrain reads format {FORMAT}", "use the newer p2ptrain"
            )

    def close(self) -> None:
        with self._lock, self._reading:
            self._reader.close()
            self._db.close()

    def add_commit(self, digest: Digest, height: int, parent: Digest, record: bytes) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO commits VALUES (?, ?, ?, ?)", (digest, height, parent, record))

    def add_payload(self, digest: Digest, height: int, data: bytes | bytearray) -> None:
        with self._transaction() as db:
            # Replaced if it is there: what is stored again may have been damaged.
            db.execute("INSERT OR REPLACE INTO payloads VALUES (?, ?, ?)", (digest, height, data))

    def commit(self, digest: Digest) -> bytes | None:
        return self._one("SELECT record FROM commits WHERE digest = ?", digest)

    def commits(self, above: int) -> dict[Digest, bytes]:
        """The records of all heights above this one by digest, on any branch, lowest height first."""
        with self._read() as db:
            query = "SELECT digest, record FROM commits WHERE height > ? ORDER BY height"
            return {Digest(digest): record for digest, record in db.execute(query, (above,))}

    def payload(self, digest: Digest) -> bytes | None:
        return self._one("SELECT bytes FROM payloads WHERE digest = ?", digest)

    def payload_part(self, digest: Digest, start: int, stop: int) -> bytes:
        """Some bytes of a payload, empty if it is not there any more."""
        with self._read() as db:
            row = db.execute("SELECT rowid FROM payloads WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                return b""
            with db.blobopen("payloads", "bytes", row[0], readonly=True) as blob:  # `substr` would read the whole of it
                blob.seek(min(start, len(blob)))
                return blob.read(stop - start)

    def payload_digests(self) -> list[Digest]:
        with self._read() as db:
            return [Digest(digest) for (digest,) in db.execute("SELECT digest FROM payloads")]

    def drop_payloads(self, height: int) -> list[Digest]:
        """Forget the bytes of contributions up to `height`: a snapshot has taken them in. Returns which."""
        with self._transaction() as db:
            rows = db.execute("DELETE FROM payloads WHERE height <= ? RETURNING digest", (height,)).fetchall()
        return [Digest(digest) for (digest,) in rows]

    def add_snapshot(self, row: SnapshotRow) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (row.state, row.height, row.manifest))

    def snapshots(self) -> list[SnapshotRow]:
        """Newest first."""
        with self._read() as db:
            rows = db.execute("SELECT state, height, manifest FROM snapshots ORDER BY height DESC").fetchall()
        return [SnapshotRow(Digest(state), height, manifest) for state, height, manifest in rows]

    def drop_snapshots(self, states: Iterable[Digest]) -> None:
        with self._transaction() as db:
            db.executemany("DELETE FROM snapshots WHERE state = ?", [(state,) for state in states])

    def fact(self, name: str) -> bytes | None:
        """A small value by name, e.g. the head's commit."""
        return self._one("SELECT value FROM facts WHERE name = ?", name)

    def set_fact(self, name: str, value: bytes) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _one(self, query: str, key: object) -> bytes | None:
        with self._read() as db:
            row = db.execute(query, (key,)).fetchone()
        return None if row is None else bytes(row[0])

    @contextlib.contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._reading:
            try:
                yield self._reader
            except sqlite3.Error as error:
                raise self._broken(error) from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                finally:
                    if self._db.in_transaction:  # a full disk makes SQLite roll back by itself
                        self._db.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise self._broken(error) from None

    def _broken(self, error: sqlite3.Error) -> StorageError:
        next_step = "move the run folder away and join again: the swarm has everything"
        if "full" in str(error) or "disk I/O" in str(error):
            next_step = "free some disk space and start the peer again: nothing that was saved is lost"
        elif "locked" in str(error):
            next_step = "end the other process that has it open, and try again"
        return StorageError(f"the ledger {self._path} can't be used", str(error), next_step)
