"""Which records of which logs count: chains of batches, contradictions, and cuts. Pure: no network, no files, no clock.

Whether a batch is taken depends only on the batch and on its log, not on when it came or who sent it. So the same
records count on all peers that have heard the same messages, in whatever order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest, PeerId, digest_of
from p2ptrain.spsa.messages import FIRST, Equivocation, LogBatch, Revocation
from p2ptrain.spsa.position import Position, packed
from p2ptrain.state.logs import Log


class Verdict(Enum):
    """What a logbook says about a batch."""

    NEXT = auto()
    """The batch continues its log."""
    KNOWN = auto()
    """The batch is here already."""
    AHEAD = auto()
    """Batches before this one are missing here."""
    CUT = auto()
    """The batch lies beyond a cut of its log."""
    CONTRADICTS = auto()
    """The author has signed another batch for the same place. `Logbook.proof` proves it."""
    PARTED = auto()
    """The batch does not follow what is here. It is forged, or its author contradicted itself in an earlier batch."""
    BACKWARDS = auto()
    """The author's clock has gone backwards. All peers end the log before this batch."""


@dataclass(slots=True)
class _Chain:
    """The batches of one log: the indices at which they begin, and their digests."""

    starts: list[int] = field(default_factory=list)
    digests: list[Digest] = field(default_factory=list)
    length: int = 0
    clock: int = 0

    def before(self, number: int) -> Digest:
        """The digest that the signature of batch `number` covers."""
        return self.digests[number - 1] if number else FIRST


class Logbook:
    """What this peer knows of the logs of one run. `owners` may revoke authors."""

    def __init__(self, run: Digest, owners: frozenset[PeerId]) -> None:
        self._run, self._owners = run, owners
        self._chains: dict[Log, _Chain] = {}
        self._cuts: dict[Log, int] = {}
        self._revocations: dict[PeerId, list[Revocation]] = defaultdict(list)

    def judge(self, batch: LogBatch) -> Verdict:
        """Judge a batch. Nothing changes."""
        chain = self._chains.get(batch.log, _Chain())
        cut = self._cut(batch.log)
        if cut is not None and batch.start >= cut:
            return Verdict.CUT
        if batch.start > chain.length:
            return Verdict.AHEAD
        number = bisect_left(chain.starts, batch.start)
        if batch.start < chain.length:
            if chain.starts[number : number + 1] != [batch.start]:
                return Verdict.PARTED
            if chain.digests[number] == batch.digest:
                return Verdict.KNOWN
        if not batch.follows(self._run, chain.before(number)):
            return Verdict.PARTED
        if batch.start < chain.length:
            return Verdict.CONTRADICTS
        return Verdict.NEXT if batch.clock >= chain.clock else Verdict.BACKWARDS

    def append(self, batch: LogBatch) -> None:
        """Take in a batch that was judged NEXT."""
        chain = self._chains.setdefault(batch.log, _Chain())
        assert batch.start == chain.length, "logs have no gaps"
        chain.starts.append(batch.start)
        chain.digests.append(batch.digest)
        chain.length, chain.clock = batch.stop, batch.clock

    def restore(self, batches: Iterable[LogBatch]) -> int | None:
        """Take in one log as a ledger has kept it. Returns the index of the first damaged record, None if none is."""
        for batch in batches:
            if self.judge(batch) is not Verdict.NEXT:
                return batch.start
            self.append(batch)
        return None

    # Taking back -----------------------------------------------------------------------------------------------------

    def proof(self, batch: LogBatch, stored: LogBatch) -> Equivocation:
        """The proof that `batch`, which was judged CONTRADICTS, contradicts the batch that is stored in its place."""
        chain = self._chains[batch.log]
        before = chain.before(bisect_left(chain.starts, batch.start))
        one, other = sorted((batch.encoded, stored.encoded))
        return Equivocation(run=self._run, before=before, one=one, other=other)

    def convict(self, proof: Equivocation) -> tuple[Log, int] | None:
        """End a log where its author contradicted itself. Returns the log and its new end; None if the log has ended
        there, or earlier, before. Raises MalformedError if the proof is about another run, or proves nothing."""
        if proof.run != self._run:
            raise MalformedError("a proof is about another run")
        log, at = proof.proven()
        if log in self._cuts and self._cuts[log] <= at:
            return None
        self._cuts[log] = at
        return log, at

    def revoke(self, order: Revocation) -> bool:
        """Follow an owner's order. False: it was known before. Raises MalformedError if the order is about another run,
        or no owner has signed it."""
        if order.run != self._run or order.author not in self._owners:
            raise MalformedError("a revocation is about another run, or its author is no owner of this run")
        orders = self._revocations[order.check_signature().revoked]
        if order in orders:
            return False
        orders.append(order)
        return True

    def _cut(self, log: Log) -> int | None:
        """The index from which on no record of a log counts: its lowest cut, None if there is no cut."""
        cuts = [dict(order.kept).get(log.session, 0) for order in self._revocations.get(log.author, ())]
        cuts += [self._cuts[log]] if log in self._cuts else []
        return min(cuts, default=None)

    def is_revoked(self, author: PeerId) -> bool:
        """Whether new logs of this author are cut, too."""
        return bool(self._revocations.get(author))

    # Looking ---------------------------------------------------------------------------------------------------------

    def lengths(self) -> dict[Log, int]:
        """The number of records of each log that are here, whether they count or not."""
        return {log: chain.length for log, chain in self._chains.items()}

    def standing(self) -> dict[Log, int]:
        """The number of records of each log that count. Logs of which none counts are left out."""
        position = {log: self._standing(log) for log in self._chains}
        return {log: count for log, count in position.items() if count}

    def _standing(self, log: Log) -> int:
        cut, here = self._cut(log), self._chains[log].length if log in self._chains else 0
        return here if cut is None else min(here, cut)

    def holds(self, position: Position) -> bool:
        """Whether all records of a position are here."""
        lengths = self.lengths()
        return all(lengths.get(log, 0) >= count for log, count in position.items())

    def allows(self, position: Position) -> bool:
        """Whether none of a position's records lie beyond a cut."""
        cuts = {log: self._cut(log) for log in position}
        return all(cut is None or position[log] <= cut for log, cut in cuts.items())

    def last_words(self, log: Log, length: int) -> Digest:
        """The digest of the batch with which a log reaches this length."""
        chain = self._chains.get(log, _Chain())
        return chain.before(bisect_left(chain.starts, length))

    def digest(self, standing: Position | None = None) -> Digest:
        """Names the records that count: those of `standing`, or all if it is None. Equal records give equal digests.

        It covers the digest of each log's last batch, too. So two peers that have heard two versions of a log notice
        it, even if the versions have one length.
        """
        standing = self.standing() if standing is None else standing
        return digest_of(packed(standing) + b"".join(self.last_words(log, standing[log]) for log in sorted(standing)))

    def missing(self, log: Log, length: int, last: bytes) -> int | None:
        """The index from which on to ask a peer for a log: 0 if it has another version, None if nothing is missing.

        Args:
            length: the number of records that the peer has.
            last: the first bytes of the digest of the peer's last batch.
        """
        cut, here = self._cut(log), self._chains.get(log, _Chain()).length
        if (length if cut is None else min(length, cut)) > here:
            return here
        differs = length == self._standing(log) and not self.last_words(log, length).startswith(last)
        return 0 if differs else None
