"""Which records of which logs count: chains of batches, contradictions, and cuts. Pure: no network, no files, no clock.

Whether a batch is taken depends on the batch and on its log alone, never on when or from whom it came, so peers that
have heard the same things, in whatever order, let the same records stand.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest, PeerId, digest_of
from p2ptrain.spsa.messages import FIRST, Equivocation, LogBatch, Revocation
from p2ptrain.spsa.position import Position, packed
from p2ptrain.state.logs import Log


class Verdict(Enum):
    """What a batch is to a logbook."""

    NEXT = auto()
    """It continues its log."""
    KNOWN = auto()
    AHEAD = auto()
    """Batches before it are missing here."""
    CUT = auto()
    """It lies beyond the end that the log has been given."""
    CONTRADICTS = auto()
    """Its author signed another one for the same place: `Logbook.proof` proves it."""
    PARTED = auto()
    """It does not follow what is here: it is forged, or its author contradicted itself before."""
    BACKWARDS = auto()
    """Its author's clock went backwards: the log ends for everybody."""


@dataclass(slots=True)
class _Chain:
    """The batches of one log by where they begin, and the digests that those after them sign."""

    starts: list[int] = field(default_factory=list)
    digests: list[Digest] = field(default_factory=list)
    length: int = 0
    clock: int = 0

    def before(self, place: int) -> Digest:
        return self.digests[place - 1] if place else FIRST


class Logbook:
    """The logs of one run, as far as this peer knows them."""

    def __init__(self, run: Digest, owners: frozenset[PeerId]) -> None:
        self._run, self._owners = run, owners
        self._chains: dict[Log, _Chain] = {}
        self._cuts: dict[Log, int] = {}
        self._revocations: dict[PeerId, list[Revocation]] = defaultdict(list)

    def judge(self, batch: LogBatch) -> Verdict:
        """What this batch is; nothing is changed."""
        chain = self._chains.get(batch.log, _Chain())
        cut = self._cut(batch.log)
        if cut is not None and batch.start >= cut:
            return Verdict.CUT
        if batch.start > chain.length:
            return Verdict.AHEAD
        place = bisect_left(chain.starts, batch.start)
        if batch.start < chain.length:
            if chain.starts[place : place + 1] != [batch.start]:
                return Verdict.PARTED
            if chain.digests[place] == batch.digest:
                return Verdict.KNOWN
        if not batch.follows(self._run, chain.before(place)):
            return Verdict.PARTED
        if batch.start < chain.length:
            return Verdict.CONTRADICTS
        return Verdict.NEXT if batch.clock >= chain.clock else Verdict.BACKWARDS

    def append(self, batch: LogBatch) -> None:
        """Take in a batch that was judged NEXT, once it is on disk."""
        chain = self._chains.setdefault(batch.log, _Chain())
        assert batch.start == chain.length, "logs have no gaps"
        chain.starts.append(batch.start)
        chain.digests.append(batch.digest)
        chain.length, chain.clock = batch.stop, batch.clock

    def restore(self, batches: Iterable[LogBatch]) -> Iterator[LogBatch]:
        """At a start: take in what a disk kept, in its order, each log from its first batch; yields what is not whole,
        and with it all that follows in its log."""
        broken: set[Log] = set()
        for batch in batches:
            if batch.log in broken or self.judge(batch) is not Verdict.NEXT:
                broken.add(batch.log)
                yield batch
            else:
                self.append(batch)

    def end(self, log: Log) -> tuple[int, Digest]:
        """A log's length, and the digest that its next batch has to sign."""
        chain = self._chains.get(log, _Chain())
        return chain.length, chain.before(len(chain.starts))

    # Taking back -----------------------------------------------------------------------------------------------------

    def proof(self, batch: LogBatch, stored: LogBatch) -> Equivocation:
        """Of a batch that CONTRADICTS the one that is stored in its place."""
        chain = self._chains[batch.log]
        before = chain.before(bisect_left(chain.starts, batch.start))
        one, other = sorted((batch.encoded, stored.encoded))
        return Equivocation(run=self._run, before=before, one=one, other=other)

    def convict(self, proof: Equivocation) -> tuple[Log, int] | None:
        """End a log where its author contradicted itself; returns where, None if it has been known.

        Raises:
            MalformedError: it proves nothing about this run.
        """
        if proof.run != self._run:
            raise MalformedError("a proof is about another run")
        log, at = proof.proven()
        known = self._cuts.get(log)
        if known is not None and known <= at:
            return None
        self._cuts[log] = at
        return log, at

    def revoke(self, order: Revocation) -> bool:
        """Follow an order; False if it has been known.

        Raises:
            MalformedError: it is not an owner's, or about another run.
        """
        if order.run != self._run or order.author not in self._owners:
            raise MalformedError("a revocation is not an owner's")
        orders = self._revocations[order.check_signature().revoked]
        if order in orders:
            return False
        orders.append(order)
        return True

    def _cut(self, log: Log) -> int | None:
        """Where a log ends whatever its author says; several cuts take the lowest."""
        cuts = [dict(order.kept).get(log.session, 0) for order in self._revocations.get(log.author, ())]
        cuts += [self._cuts[log]] if log in self._cuts else []
        return min(cuts, default=None)

    def is_revoked(self, author: PeerId) -> bool:
        """Whether what this author says in logs to come is in vain."""
        return bool(self._revocations.get(author))

    # Looking ---------------------------------------------------------------------------------------------------------

    def lengths(self) -> dict[Log, int]:
        """Records of each log that are here, whether they stand or not."""
        return {log: chain.length for log, chain in self._chains.items()}

    def standing(self) -> dict[Log, int]:
        """Records of each log that count."""
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
        """The digest of the batch that brings a log to this length, or beyond."""
        chain = self._chains.get(log, _Chain())
        return chain.before(bisect_left(chain.starts, length))

    def digest(self, standing: Position | None = None) -> Digest:
        """The same on peers for which the same stands: how much of each log (all that does, if None), and the last
        words there.

        Two versions of a log of equal length differ in it, so that peers notice a contradiction that each of them has
        heard only one side of."""
        standing = self.standing() if standing is None else standing
        return digest_of(packed(standing) + b"".join(self.last_words(log, standing[log]) for log in sorted(standing)))

    def missing(self, log: Log, length: int, last: bytes) -> int | None:
        """From which index on to ask a peer for a log of which it has so much, ending in these words; None: nothing
        is missing. From the beginning, if it has another version."""
        cut, here = self._cut(log), self._chains.get(log, _Chain()).length
        if (length if cut is None else min(length, cut)) > here:
            return here
        differs = length == self._standing(log) and not self.last_words(log, length).startswith(last)
        return 0 if differs else None
