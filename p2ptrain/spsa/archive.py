"""Logs, cuts and their meaning on disk: what the logbook knows is what the ledger holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from p2ptrain.errors import LedgerError, MalformedError
from p2ptrain.run import PeerId, short_peer
from p2ptrain.spsa.logbook import Logbook
from p2ptrain.spsa.messages import Equivocation, LogBatch, Revocation
from p2ptrain.spsa.replica import Piece
from p2ptrain.state import Ledger
from p2ptrain.state.logs import Batch as Row
from p2ptrain.state.logs import Cut, Log

ROWS_AT_ONCE = 256

log = logging.getLogger(__name__)


class Archive:
    """The records of a run's logs in a ledger. Any thread may call."""

    def __init__(self, ledger: Ledger) -> None:
        self._logs = ledger.logs

    def keep(self, batches: Sequence[LogBatch]) -> None:
        """On disk when this returns.

        Raises:
            LedgerError: they do not continue their logs here.
            StorageError: the disk is full.
        """
        rows = [Row(batch.log, batch.start, batch.stop, batch.stored) for batch in batches]
        if len(self._logs.append(rows)) != len(rows):
            raise LedgerError("batches do not continue their logs on disk", "the ledger was changed by somebody else")

    def keep_cut(self, cut: Revocation | Equivocation) -> None:
        self._logs.add_cut(Cut(*_place_of(cut), cut.encoded))

    def cuts(self) -> list[bytes]:
        """Encoded revocations and proofs."""
        return [cut.record for cut in self._logs.cuts()]

    def read_into(self, book: Logbook) -> None:
        """At a start: what is on disk, checked; what is not whole is forgotten, to be pulled again from others."""
        broken: dict[Log, int] = {}
        for name in sorted(self._logs.lengths()):
            start = self.take_into(book, name)
            if start is not None:
                broken[name] = start
        for name, start in broken.items():
            log.warning(
                "a log of %s is damaged from record %d on: that is pulled again", short_peer(name.author), start
            )
            self._logs.drop_from(name, start)
        for record in self.cuts():  # last: what lies beyond them is here, and signed, all the same
            try:
                take_cut(book, record)
            except MalformedError as error:
                log.warning("a cut in the ledger can't be used: %s", error.brief)

    def take_into(self, book: Logbook, name: Log) -> int | None:
        """Have a logbook take in a log, checked; returns where it begins not to be whole, None if all of it is."""
        try:
            return next((batch.start for batch in book.restore(self.batches(name))), None)
        except LedgerError:
            return book.end(name)[0]

    def batches(self, name: Log, start: int = 0) -> Iterator[LogBatch]:
        """The batches that hold records from `start` on.

        Raises:
            LedgerError: a disk has made something else of one.
        """
        while rows := self._logs.batches(name, start, ROWS_AT_ONCE):
            for row in rows:
                yield _restored(row)
            start = rows[-1].stop

    def batch_at(self, name: Log, start: int) -> LogBatch:
        """The batch that begins there."""
        return next(self.batches(name, start))

    def pieces(self, name: Log, start: int, stop: int) -> Iterable[Piece]:
        """See `Records`."""
        reached = start
        for batch in self.batches(name, start):
            yield Piece(batch.start, batch.codes, batch.clock)
            reached = batch.stop
            if reached >= stop:
                return
        if reached < stop:
            raise LedgerError(
                f"records {reached} to {stop} of a log of {short_peer(name.author)} are missing",
                "",
                "start the peer again: it pulls what is missing",
            )


def _restored(row: Row) -> LogBatch:
    try:
        batch = LogBatch.restore(row.log, row.start, row.record)
        why = "" if batch.stop == row.stop else f"it ends at {batch.stop}"
    except MalformedError as error:
        why = error.what
    if why:
        raise LedgerError(
            f"records {row.start} to {row.stop} of a log of {short_peer(row.log.author)} are damaged",
            why,
            "start the peer again: it pulls what is missing",
        )
    return batch


def take_cut(
    book: Logbook, record: bytes, knows: Callable[[PeerId], bool] = lambda author: True
) -> Revocation | Equivocation | None:
    """Let a revocation or a proof, whichever it is, take effect; None if it has been known, or is about nobody.

    Args:
        knows: whose words may be part of the run: anybody can invent an author that contradicts itself.

    Raises:
        MalformedError: it is neither, or not about this run.
    """
    try:
        order = Revocation.decode(record)
    except MalformedError:
        proof = Equivocation.decode(record)
        if not knows(proof.proven()[0].author):
            return None
        return proof if book.convict(proof) is not None else None
    return order if book.revoke(order) else None


def _place_of(cut: Revocation | Equivocation) -> tuple[Log, int]:
    return (Log(cut.revoked, b""), 0) if isinstance(cut, Revocation) else cut.proven()
