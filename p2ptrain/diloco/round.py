"""The round protocol as a pure state machine: events in, actions out. Sockets, clocks and disks belong to the shell.

A round has two phases, and no groups are formed. *Contribute*: a peer that has done its inner steps announces a signed
contribution, and everyone fetches its bytes at once. *Commit*: the leader closes the round when every live trainer's
contribution is listable, or when a quorum is and the grace window has passed. A contribution is **listable** when the
leader holds its bytes and at least one other live peer says that it holds them too (the author counts), so that the
loss of one peer never loses a commit's bytes.

The leader of an attempt is the candidate with the lowest BLAKE3(parent ‖ attempt ‖ peer id). Candidates are the live
trainers among the contributors of the last few commits; if there are none, all live trainers. An attempt begins when
this peer itself would close the round, and lasts `attempt_timeout`; then the next candidate may commit. Peers see
different moments and different live peers, so two leaders may commit: `chain` settles that.

    Quorum          half of the live trainers, rounded up
    Grace, attempt  adaptive, see `pace`
    Lonely bytes    after 30 s, a contribution that only the leader holds may be listed too

There are no empty commits: a height waits until a peer has contributed to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from itertools import islice

from blake3 import blake3

from p2ptrain.diloco import events
from p2ptrain.diloco.chain import MAX_CONTRIBUTIONS, Chain, Commit, Contribution, Verdict
from p2ptrain.diloco.pace import Pace
from p2ptrain.diloco.payloads import Payloads
from p2ptrain.run import Digest, PeerId
from p2ptrain.run.head import Head

RECENT_COMMITS = 4
LONELY_AFTER = 30.0
"""Seconds."""
STUCK_AFTER = 15.0
"""Seconds that a disagreement about the head may last."""
QUIET_AFTER_RESUMING = 5.0
"""Seconds: a peer that was suspended first listens for two heartbeats."""
RETRY_ASKING = 2.0
"""Seconds until a peer is asked for the same commits again."""
AHEAD = 4
"""Contributions for heights up to AHEAD·P above the head are remembered."""
MAX_BASES = 8
"""Bases for which contributions of one height are remembered; this branch's own base always is."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the spec says about rounds."""

    fragments: int
    patient: bool
    """Wait for every live trainer, so that the run can be reproduced: overlap = n in the spec."""
    rollback_depth: int
    last_height: int | None = None


@dataclass(slots=True)
class _Open:
    """Timing of the round above the present head."""

    since: float
    quorum_since: float | None = None
    closable_since: float | None = None
    extended_since: float | None = None
    """When the first commit on the head was seen. It is being fetched or applied."""
    counted: set[PeerId] = field(default_factory=set)
    """Authors whose arrival `Pace` has counted."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The head that another peer claims, and since when."""

    head: Head
    since: float


def quorum(trainers: int) -> int:
    """How many listable contributions start the grace window."""
    return max(1, -(-trainers // 2))


def leader(parent: Digest, attempt: int, candidates: Iterable[PeerId]) -> PeerId | None:
    """The candidate with the lowest BLAKE3(parent ‖ attempt ‖ peer id)."""
    place = parent + attempt.to_bytes(4, "little")
    return min(candidates, key=lambda peer: blake3(place + peer.encode()).digest(), default=None)


class Rounds:
    """The rounds in preparation and the chain below them, as the peer `me` sees them. `now` is local monotonic time in
    seconds in every call."""

    def __init__(self, me: PeerId, chain: Chain, rules: Rules, now: float) -> None:
        self.me, self.chain, self.rules = me, chain, rules
        self._trainers: frozenset[PeerId] = frozenset()
        self._live: frozenset[PeerId] = frozenset()
        self._offers: dict[tuple[int, Digest], dict[PeerId, Contribution]] = defaultdict(dict)
        self._payloads = Payloads()
        self._applying: set[Digest] = set()
        self._asked: dict[Digest, float] = {}
        self._proposed: set[Digest] = set()
        self._hurried: set[int] = set()
        self._heads: dict[PeerId, _Seen] = {}
        self._round = _Open(now)
        self._head_since = now
        self._apart_since: float | None = None
        self._quiet_until = now
        self._pace = Pace()

    @property
    def head(self) -> Head:
        return self.chain.head

    def handle(self, event: events.Event, now: float) -> list[events.Action]:
        """Take in one event, and return what the shell has to do."""
        actions: list[events.Action] = []
        match event:
            case events.PeersChanged(trainers, live):
                self._trainers, self._live = trainers, live
                self._heads = {peer: seen for peer, seen in self._heads.items() if peer in live}
            case events.Offered(contribution):
                self._offer(contribution)
            case events.Stored(contribution, usable):
                self._payloads.arrived(contribution, usable)
                if usable:
                    actions.append(events.SayHolding(contribution.payload))
            case events.FetchFailed(contribution):
                self._payloads.failed(contribution, now)
            case events.Holding(peer, payloads):
                self._payloads.claimed(peer, payloads)
            case events.Committed(commit, source):
                actions += self._committed(commit, source, now)
            case events.Applied(head):
                actions += self._applied(head, now)
            case events.ApplyFailed(digest, differs):
                self._applying.discard(digest)
                self.chain.refuse(digest, differs)
            case events.HeadSeen(peer, None):
                self._heads.pop(peer, None)
            case events.HeadSeen(peer, Head() as head):
                if peer not in self._heads or self._heads[peer].head != head:
                    self._heads[peer] = _Seen(head, now)
            case events.Resumed():
                self._round = _Open(now)
                self._head_since, self._apart_since = now, None
                self._quiet_until = now + QUIET_AFTER_RESUMING
            case events.Tick():
                pass
        return actions + self._next(now)

    # Looking -------------------------------------------------------------------------------------------------------

    def knows(self, offer: Contribution) -> bool:
        """Whether a contribution of this author for this height and base is known."""
        return offer.author in self._offers.get((offer.height, offer.base), {})

    def holders(self, payload: Digest) -> Set[PeerId]:
        """The peers that say they hold a payload."""
        return self._payloads.holders(payload)

    def open_news(self) -> tuple[tuple[Contribution, ...], tuple[Digest, ...]]:
        """What heartbeats repeat: this peer's open contributions, and the open payloads that are here and usable."""
        offers = [part for _, parts in self._open_offers() for part in parts.values()]
        mine = tuple(part for part in offers if part.author == self.me)
        return mine, tuple(part.payload for part in offers if self._payloads.is_usable(part))

    def is_idle(self) -> bool:
        """Whether no commit waits to be applied."""
        return not self._applying and next(self.chain.ready(), None) is None

    # Taking in -----------------------------------------------------------------------------------------------------

    def _offer(self, contribution: Contribution) -> None:
        ahead = contribution.height - self.head.height
        if not 0 < ahead <= AHEAD * self.rules.fragments:
            return
        key = contribution.height, contribution.base
        rivals = sum(height == contribution.height for height, _ in self._offers)
        if key not in self._offers and rivals >= MAX_BASES and key[1] != self.chain.base_for(key[0], self.head.commit):
            return
        # The first one counts: an author that signs two for one height hurts only itself.
        self._offers[key].setdefault(contribution.author, contribution)
        self._payloads.claimed(contribution.author, [contribution.payload])

    def _committed(self, commit: Commit, source: PeerId, now: float) -> list[events.Action]:
        if self.rules.last_height is not None and commit.height > self.rules.last_height:
            return []
        verdict = self.chain.add(commit)
        if verdict is Verdict.ADDED and commit.parent == self.head.commit and self._round.extended_since is None:
            self._round.extended_since = now
            if self._round.closable_since is not None:
                self._pace.commit_arrived(now - self._round.closable_since)
        return self._ask_for(commit.parent, source, now) if verdict is Verdict.ORPHAN else []

    def _applied(self, head: Head, now: float) -> list[events.Action]:
        self._applying.discard(head.commit)
        if head.commit not in self.chain:
            return []
        depth = self.chain.fork_depth(head.commit)
        if not self.chain.applied(head):
            return []
        if self._round.quorum_since is not None and not self.rules.patient:
            self._pace.missed(len(self._trainers - self._round.counted))
        self._pace.round_took(now - self._head_since)
        self._head_since, self._apart_since = now, None
        self._round = _Open(now, extended_since=now if self._is_extended() else None)
        self._forget()
        return [events.HeadChanged(self.head, depth)]

    def _forget(self) -> None:
        """Drop what belongs to heights so far below the head that no fork can reach them."""
        self.chain.forget_below(self.head.height - self.rules.rollback_depth)
        for key in [key for key in self._offers if key[0] <= self.head.height - self.rules.fragments]:
            del self._offers[key]
        needed = [part for offers in self._offers.values() for part in offers.values()]
        needed += [part for commit in self.chain.commits() for part in commit.contributions]
        self._payloads.keep_only(needed)
        self._hurried = {height for height in self._hurried if height > self.head.height}
        self._proposed = {parent for parent in self._proposed if parent in self.chain}

    # Deciding ------------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> list[events.Action]:
        actions = self._fetch_and_apply(now)
        actions += self._follow_heads(now)
        if self.rules.last_height is None or self.head.height < self.rules.last_height:
            actions += self._close(now)
            actions += self._hurry()
        return actions

    def _fetch_and_apply(self, now: float) -> list[events.Action]:
        """Fetch the bytes of contributions that are or may be listed, and apply the commits whose bytes are here."""
        actions: list[events.Action] = []
        wanted = [part for _, offers in self._open_offers() for part in offers.values()]
        for commit in self.chain.ready():
            absent = [part for part in commit.contributions if not self._payloads.is_here(part)]
            wanted += absent
            if not absent and commit.digest not in self._applying:
                self._applying.add(commit.digest)
                actions.append(events.Apply(commit))
        return actions + [events.FetchPayload(part) for part in self._payloads.to_fetch(wanted, now)]

    def _follow_heads(self, now: float) -> list[events.Action]:
        """Ask for the commits of unknown heads, and start again from a snapshot if a disagreement does not end.

        A disagreement usually ends by itself, once everyone has applied the same commits; a peer that is on its way to
        a head does not disagree with it, however slowly the bytes arrive. It does not end if bytes are lost, if states
        differ, or if a peer joined from a snapshot above the fork and can't go back. Then the smaller side gives in;
        if both are equal, the lighter one. A peer that is still joining is on neither side.
        """
        actions: list[events.Action] = []
        others = {peer: seen.head for peer, seen in self._heads.items() if self._is_elsewhere(seen, now)}
        for peer, head in others.items():
            if head.commit not in self.chain:
                actions += self._ask_for(head.commit, peer, now)
        elsewhere = [head for head in others.values() if not self._is_on_the_way_to(head)]
        together = 1 + len(self._heads) - len(elsewhere)
        best = max((head.rank for head in elsewhere), default=self.head.rank)
        if (len(elsewhere), best) <= (together, self.head.rank):
            self._apart_since = None
        elif self._apart_since is None:
            self._apart_since = now
        elif now - self._apart_since > STUCK_AFTER:
            self._apart_since = None
            differs = any(map(self.chain.contradicts, elsewhere))
            reason = "this peer's state differs from the others'"
            if not differs:
                reason = "the others' commits do not continue this peer's branch"
            actions.append(events.Resync(reason))
        return actions

    def _is_elsewhere(self, seen: _Seen, now: float) -> bool:
        """Whether another peer's head is neither this peer's nor below it. If the head lies further back than the
        history, the peer may only be slow; but if its head does not move, it is elsewhere."""
        on_mine = self.chain.is_on_branch(seen.head)
        return not on_mine if on_mine is not None else now - seen.since > STUCK_AFTER

    def _is_on_the_way_to(self, head: Head) -> bool:
        """Whether all commits up to there are known, and only wait for their bytes or for being applied."""
        path = self.chain.path_to(head.commit)
        if not path or self.chain.contradicts(head):
            return False
        parts = (part for commit in path for part in commit.contributions)
        return not any(self._payloads.is_failing(part) for part in parts)

    def _ask_for(self, tip: Digest, source: PeerId, now: float) -> list[events.Action]:
        if now < self._asked.get(tip, 0.0) or source == self.me:
            return []
        self._asked = {digest: until for digest, until in self._asked.items() if until > now}
        self._asked[tip] = now + RETRY_ASKING
        return [events.FetchCommits(tip, source)]

    def _close(self, now: float) -> list[events.Action]:
        """Propose a commit if the round above the head can be closed and it is this peer's turn."""
        state, parent = self._round, self.head.commit
        listable = self._listable(now)
        if not self._may_close(listable, now):
            return []
        if state.closable_since is None:
            state.closable_since = now
        if self.me not in self._trainers or parent in self._proposed or self._let_be(now) or self._is_behind(now):
            return []
        attempt = int((now - state.closable_since) / self._pace.attempt_timeout())
        if leader(parent, attempt, self._candidates()) != self.me:
            return []
        self._proposed.add(parent)
        drawn = sorted(listable, key=lambda part: blake3(parent + part.author.encode()).digest())[:MAX_CONTRIBUTIONS]
        chosen = sorted(drawn, key=lambda part: part.author)
        return [events.Propose(self.head.height + 1, parent, self.head.state, attempt, tuple(chosen))]

    def _may_close(self, listable: list[Contribution], now: float) -> bool:
        state = self._round
        authors = {part.author for part in listable}
        if len(authors) >= quorum(len(self._trainers)):
            if state.quorum_since is None:
                state.quorum_since = now
                state.counted = set(authors)
            for _ in authors - state.counted:
                self._pace.contribution_arrived(now - state.quorum_since)
            state.counted |= authors
        if authors and authors >= self._trainers:
            return True
        if self.rules.patient or state.quorum_since is None:
            return False
        return now - state.quorum_since >= self._pace.grace()

    def _listable(self, now: float) -> list[Contribution]:
        lonely = not (self._trainers - {self.me}) or now - self._round.since > LONELY_AFTER
        others = self._live - {self.me}
        offers = self._offers_for(self.head.height + 1).values()
        usable = [part for part in offers if self._payloads.is_usable(part)]
        return [part for part in usable if lonely or self.holders(part.payload) & others]

    def _offers_for(self, height: int) -> dict[PeerId, Contribution]:
        base = self.chain.base_for(height, self.head.commit)
        return self._offers.get((height, base), {}) if base is not None else {}

    def _open_offers(self) -> list[tuple[int, dict[PeerId, Contribution]]]:
        """The contributions on this branch for the rounds in preparation, by height."""
        heights = {height for height, _ in self._offers}
        first, last = self.head.height + 1, self.head.height + self.rules.fragments
        return [(height, self._offers_for(height)) for height in sorted(heights) if first <= height <= last]

    def _is_behind(self, now: float) -> bool:
        """Whether most other peers are further, so that this peer needs their commits and should not make its own."""
        further = sum(seen.head.height > self.head.height for seen in self._heads.values())
        return now < self._quiet_until or 2 * further > len(self._live - {self.me})

    def _is_extended(self) -> bool:
        return any(commit.parent == self.head.commit for commit in self.chain.ready())

    def _let_be(self, now: float) -> bool:
        """Whether a commit on the head is being fetched or applied, which needs time before this peer makes a rival."""
        since = self._round.extended_since
        return since is not None and self._is_extended() and now - since < 3 * self._pace.attempt_timeout()

    def _candidates(self) -> frozenset[PeerId]:
        recent = islice(self.chain.back_from(self.head.commit), RECENT_COMMITS)
        contributors = {part.author for commit in recent for part in commit.contributions}
        return (self._trainers & contributors) or self._trainers

    def _hurry(self) -> list[events.Action]:
        """Ask the trainer to contribute for the lowest height at which a quorum of others already has."""
        if self.rules.patient or self.me not in self._trainers:
            return []
        for height, offers in self._open_offers():
            waited_for = self.me not in offers and height not in self._hurried
            if waited_for and len(offers) >= quorum(len(self._trainers)):
                self._hurried.add(height)
                return [events.Hurry(height)]
        return []
