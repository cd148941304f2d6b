"""Logs and cuts on disk, and how a logbook learns them at a start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from p2ptrain.errors import LedgerError, MalformedError
from p2ptrain.run import PeerId, short_peer
from p2ptrain.spsa.logbook import Logbook
from p2ptrain.spsa.messages import Equivocation, LogBatch, Revocation, decode_cut
from p2ptrain.spsa.replica import Piece
from p2ptrain.state import Ledger
from p2ptrain.state.logs import BatchRow, CutRow, Log

ROWS_AT_ONCE = 256
FETCH_AGAIN = "start the peer again: it fetches what is missing"

log = logging.getLogger(__name__)


class Archive:
    """The logs and cuts in a run's ledger. Any thread may call."""

    def __init__(self, ledger: Ledger) -> None:
        self._logs = ledger.logs

    def keep(self, batches: Sequence[LogBatch]) -> None:
        """Write batches. They are on disk when this returns. Raises LedgerError if a batch does not continue its log in
        the ledger, and StorageError if the disk is full."""
        rows = [BatchRow(batch.log, batch.start, batch.stop, batch.stored) for batch in batches]
        if len(self._logs.append(rows)) != len(rows):
            what, why = "batches do not continue their logs on disk", "another process has changed the ledger"
            raise LedgerError(what, why, "end other processes that use this run folder, then start the peer again")

    def keep_cut(self, cut: Revocation | Equivocation) -> None:
        """Write a cut. It is on disk when this returns."""
        log, at = (Log(cut.revoked, b""), 0) if isinstance(cut, Revocation) else cut.proven()
        self._logs.add_cut(CutRow(log, at, cut.encoded))

    def cuts(self) -> list[bytes]:
        """All revocations and proofs, encoded."""
        return [cut.record for cut in self._logs.cuts()]

    def read_into(self, book: Logbook) -> None:
        """Check what is on disk, and have a new logbook take it in. Damaged records are deleted here; the peer fetches
        them again from others."""
        starts = {name: self.take_into(book, name) for name in sorted(self._logs.lengths())}
        for name, start in starts.items():
            if start is None:
                continue
            log.warning("a log of %s is damaged from record %d on. It is fetched again", short_peer(name.author), start)
            self._logs.drop_from(name, start)
        for data in self.cuts():  # after the logs: a logbook takes no batch beyond a cut, but the ledger may have some
            try:
                take_cut(book, data)
            except MalformedError as error:
                log.warning("a cut in the ledger can't be used: %s", error.brief)

    def take_into(self, book: Logbook, name: Log) -> int | None:
        """Check a log, and have a logbook take it in. Returns the index of the first damaged record, or None."""
        try:
            return book.restore(self.batches(name))
        except LedgerError:
            return book.lengths().get(name, 0)

    def batches(self, name: Log, start: int = 0) -> Iterator[LogBatch]:
        """The batches of a log that hold records from `start` on. Raises LedgerError if one is damaged."""
        while rows := self._logs.batches(name, start, ROWS_AT_ONCE):
            for row in rows:
                yield _restored(row)
            start = rows[-1].stop

    def batch_at(self, name: Log, start: int) -> LogBatch:
        """The batch of a log that holds record `start`."""
        return next(self.batches(name, start))

    def pieces(self, name: Log, start: int, stop: int) -> Iterable[Piece]:
        """See `Records.pieces`."""
        reached = start
        for batch in self.batches(name, start):
            yield Piece(batch.start, batch.codes, batch.clock)
            reached = batch.stop
            if reached >= stop:
                return
        if reached < stop:
            what = f"records {reached} to {stop} of a log of {short_peer(name.author)} are missing"
            raise LedgerError(what, "", FETCH_AGAIN)


def _restored(row: BatchRow) -> LogBatch:
    try:
        batch = LogBatch.restore(row.log, row.start, row.record)
        why = "" if batch.stop == row.stop else f"the batch ends at record {batch.stop}"
    except MalformedError as error:
        why = error.what
    if why:
        what = f"records {row.start} to {row.stop} of a log of {short_peer(row.log.author)} are damaged"
        raise LedgerError(what, why, FETCH_AGAIN)
    return batch


def take_cut(
    book: Logbook, data: bytes, knows: Callable[[PeerId], bool] = lambda author: True
) -> Revocation | Equivocation | None:
    """Have a revocation or a proof take effect in a logbook.

    Args:
        knows: whether an author belongs to the run. Anybody can invent an author that contradicts itself.

    Returns:
        What has taken effect; None if it was known before, or if the proof is about an author that does not belong.

    Raises:
        MalformedError: the data is neither a revocation nor a proof, or it is about another run.
    """
    cut = decode_cut(data)
    if isinstance(cut, Revocation):
        return cut if book.revoke(cut) else None
    return cut if knows(cut.proven()[0].author) and book.convict(cut) else None
