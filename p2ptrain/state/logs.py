"""Authors' logs in a ledger (one-byte runs): batches of records, cuts that take records back, and marks.

A log belongs to one author and one start of its process (`session`). Its records are numbered from 0 and come in
batches. A batch is kept only if it begins where the log ends, so a log has no gaps and no record twice. The method has
checked the content and the signatures of batches, cuts and marks before; here they are bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from p2ptrain.run import Digest, PeerId
from p2ptrain.state.database import Database


class Log(NamedTuple):
    """Names a log."""

    author: PeerId
    session: bytes


@dataclass(frozen=True, slots=True)
class BatchRow:
    """Records `start` to `stop` (exclusive) of a log, as their author signed them together."""

    log: Log
    start: int
    stop: int
    record: bytes


@dataclass(frozen=True, slots=True)
class CutRow:
    """A record that takes back a log's records from index `at` on, e.g. an owner's order or the proof of a lie."""

    log: Log
    """If its session is empty, all logs of the author are meant."""
    at: int
    record: bytes


@dataclass(frozen=True, slots=True)
class MarkRow:
    """A position in all logs on which peers agree: the mark's digest, and the number of records at the position."""

    digest: Digest
    records: int
    record: bytes


class Logs:
    """The logs in a `Ledger`. Every method can raise StorageError."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def append(self, batches: Iterable[BatchRow]) -> list[BatchRow]:
        """Keep the batches that continue their logs, in one transaction. They are on disk when this returns.

        Returns:
            The batches that were kept. A batch that begins before the end of its log is here already. For one that
            begins after the end, the caller has to fetch what lies between.
        """
        kept = []
        with self._db.write() as db:
            for batch in batches:
                db.execute("INSERT OR IGNORE INTO logs (author, session) VALUES (?, ?)", batch.log)
                (log,) = db.execute("SELECT log FROM logs WHERE author = ? AND session = ?", batch.log).fetchone()
                (end,) = db.execute("SELECT coalesce(max(stop), 0) FROM batches WHERE log = ?", (log,)).fetchone()
                if batch.start == end and batch.stop > end:
                    row = (log, batch.start, batch.stop, int(time.time()), batch.record)
                    db.execute("INSERT INTO batches (log, start, stop, seen, record) VALUES (?, ?, ?, ?, ?)", row)
                    kept.append(batch)
        return kept

    def lengths(self, when: float = math.inf) -> dict[Log, int]:
        """The number of records of each log that are here, in the order in which the logs came. With `when` (seconds
        since 1970 by this machine's clock), only those that were here then."""
        query = "SELECT author, session, max(stop) FROM batches JOIN logs USING (log) WHERE seen <= ? GROUP BY log"
        rows = self._db.rows(f"{query} ORDER BY log", when)
        return {Log(author, session): stop for author, session, stop in rows}

    def arrivals(self) -> list[tuple[int, int]]:
        """Pairs (seconds since 1970 by this machine's clock, number of records that came then), the oldest first."""
        rows = self._db.rows("SELECT seen, sum(stop - start) FROM batches GROUP BY seen ORDER BY seen")
        return [(int(seen), int(records)) for seen, records in rows]

    def batches(self, log: Log, start: int = 0, limit: int = 256) -> list[BatchRow]:
        """The batches of a log that hold records from `start` on, in order, at most `limit` of them."""
        with self._db.read() as db:
            query = (
                "SELECT start, stop, record FROM batches JOIN logs USING (log) "
                "WHERE author = ? AND session = ? AND start >= "
                "(SELECT coalesce(max(start), 0) FROM batches b WHERE b.log = logs.log AND b.start <= ?) "
                "AND stop > ? ORDER BY start LIMIT ?"
            )
            return [BatchRow(log, *row) for row in db.execute(query, (*log, start, start, limit))]

    def drop_from(self, log: Log, start: int) -> None:
        """Delete the batches of a log from record `start` on, because they are not as their author signed them."""
        with self._db.write() as db:
            named = "SELECT log FROM logs WHERE author = ? AND session = ?"
            reaching = "(start >= ? OR stop > ?)"  # the disk may have changed one of the two
            db.execute(f"DELETE FROM batches WHERE {reaching} AND log IN ({named})", (start, start, *log))

    def add_cut(self, cut: CutRow) -> None:
        """Keep a cut. All cuts of a log are kept: other peers may know different ones."""
        with self._db.write() as db:
            db.execute("INSERT OR IGNORE INTO cuts VALUES (?, ?, ?, ?)", (*cut.log, cut.at, cut.record))

    def cuts(self) -> list[CutRow]:
        """All cuts; of each log, the lowest first."""
        with self._db.read() as db:
            rows = db.execute("SELECT author, session, at, record FROM cuts ORDER BY author, session, at")
            return [CutRow(Log(PeerId(author), session), at, record) for author, session, at, record in rows]

    def add_mark(self, mark: MarkRow) -> None:
        with self._db.write() as db:
            db.execute("INSERT OR IGNORE INTO marks VALUES (?, ?, ?)", (mark.digest, mark.records, mark.record))

    def marks(self) -> list[MarkRow]:
        """All marks, the newest first."""
        with self._db.read() as db:
            rows = db.execute("SELECT digest, position, record FROM marks ORDER BY position DESC, digest")
            return [MarkRow(Digest(digest), position, record) for digest, position, record in rows]
