"""Logs, cuts and their meaning on disk: what the logbook knows is what the ledger holds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from p2ptrain.errors import LedgerError, MalformedError
from p2ptrain.run import PeerId, short_peer
from p2ptrain.spsa.batch import Batch, Equivocation, Revocation
from p2ptrain.spsa.logbook import Logbook
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

    def keep(self, batches: Sequence[Batch]) -> None:
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
        for record in self.cuts():
            try:
                take_cut(book, record)
            except MalformedError as error:
                log.warning("a cut in the ledger can't be used: %s", error.brief)
        broken: dict[Log, int] = {}
        for name in sorted(self._logs.lengths()):
            for batch in book.restore(self.batches(name)):
                broken.setdefault(name, batch.start)
        for name, start in broken.items():
            log.warning(
                "a log of %s is damaged from record %d on: that is pulled again", short_peer(name.author), start
            )
            self._logs.drop_from(name, start)

    def batches(self, name: Log, start: int = 0) -> Iterator[Batch]:
        """The batches that hold records from `start` on; one that can't be read ends the log."""
        while rows := self._logs.batches(name, start, ROWS_AT_ONCE):
            for row in rows:
                yield Batch.restore(name, row.start, row.record)
            start = rows[-1].stop

    def batch_at(self, name: Log, start: int) -> Batch:
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
                f"records {reached} to {stop} of a log of {short_peer(name.author)} are missing", "",
                "start the peer again: it pulls what is missing",
            )  # fmt: skip


def take_cut(book: Logbook, record: bytes) -> Revocation | Equivocation | None:
    """Let a revocation or a proof, whichever it is, take effect; None if it has been known.

    Raises:
        MalformedError: it is neither, or not about this run.
    """
    try:
        order = Revocation.decode(record)
    except MalformedError:
        proof = Equivocation.decode(record)
        return proof if book.convict(proof) is not None else None
    return order if book.revoke(order) else None


def _place_of(cut: Revocation | Equivocation) -> tuple[Log, int]:
    return (Log(PeerId(cut.revoked), b""), 0) if isinstance(cut, Revocation) else cut.proven()
