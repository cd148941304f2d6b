"""The round protocol as a pure state machine: events in, actions out. Sockets, clocks and disks belong to the shell.

A round has two phases and no assembly of groups. *Contribute*: whoever has done its inner steps announces a signed
contribution; everyone fetches the bytes at once. *Commit*: the leader closes the round when every live trainer's
contribution is listable, or when a quorum is and the grace window has passed. A contribution is **listable** when the
leader holds its bytes and at least one other live peer says that it does too (its author counts), so that the loss of
one peer never loses a commit's bytes.

The leader of an attempt is the candidate with the lowest BLAKE3(parent ‖ attempt ‖ peer id); candidates are the live
trainers among the contributors of the last few commits, or all live trainers where there are none. An attempt lasts
`attempt_timeout`, counted from the moment at which this peer itself would close the round; then the next candidate
may. Peers see different moments and different live sets, so two leaders may commit: `chain` settles that.

    Quorum          half of the live trainers, rounded up
    Grace, attempt  adaptive, see `pace`
    Lonely bytes    after 30 s a contribution that only the leader holds may be listed too

There are no empty commits: a height waits until somebody has contributed to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from itertools import islice

from blake3 import blake3

from p2ptrain.diloco.chain import MAX_CONTRIBUTIONS, Chain, Commit, Contribution, Verdict
from p2ptrain.diloco.events import (
    Action,
    Applied,
    Apply,
    ApplyFailed,
    Committed,
    Event,
    FetchCommits,
    FetchFailed,
    FetchPayload,
    HeadChanged,
    HeadSeen,
    Holding,
    Hurry,
    Offered,
    PeersChanged,
    Propose,
    Resumed,
    Resync,
    SayHolding,
    Stored,
    Tick,
)
from p2ptrain.diloco.pace import Pace
from p2ptrain.diloco.payloads import Payloads
from p2ptrain.run import Digest, PeerId
from p2ptrain.run.head import Head

RECENT_COMMITS = 4
LONELY_AFTER = 30.0
STUCK_AFTER = 15.0
QUIET_AFTER_RESUMING = 5.0
"""A peer that was suspended first listens for two heartbeats."""
RETRY_ASKING = 2.0
AHEAD = 4
"""Contributions for heights up to AHEAD·P above the head are remembered."""
MAX_BASES = 8
"""Rival bases for which contributions of one height are remembered."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the spec says about rounds."""

    fragments: int
    patient: bool
    """overlap = n: wait for every live trainer, so that runs can be reproduced."""
    rollback_depth: int
    last_height: int | None = None


@dataclass(slots=True)
class _Open:
    """Timing of the round above the present head."""

    since: float
    quorum_since: float | None = None
    closable_since: float | None = None
    extended_since: float | None = None
    """When a commit on the head was first seen: it is being fetched or applied."""
    counted: set[PeerId] = field(default_factory=set)
    """Authors whose arrival has entered the grace statistics."""


def quorum(trainers: int) -> int:
    """How many listable contributions start the grace window."""
    return max(1, -(-trainers // 2))


def leader(parent: Digest, attempt: int, candidates: Iterable[PeerId]) -> PeerId | None:
    """The candidate with the lowest BLAKE3(parent ‖ attempt ‖ peer id)."""
    return min(
        candidates,
        key=lambda peer: blake3(parent + attempt.to_bytes(4, "little") + peer.encode()).digest(),
        default=None,
    )


class Rounds:
    """One peer's view of the rounds in preparation and of the chain below them."""

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
        self._heads: dict[PeerId, Head] = {}
        self._head_times: dict[PeerId, float] = {}
        self._round = _Open(now)
        self._head_since = now
        self._apart_since: float | None = None
        self._quiet_until = now
        self._pace = Pace()

    @property
    def head(self) -> Head:
        return self.chain.head

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in one event at local monotonic time `now` (seconds) and say what to do."""
        actions: list[Action] = []
        match event:
            case PeersChanged(trainers, live):
                self._trainers, self._live = trainers, live
                self._heads = {peer: head for peer, head in self._heads.items() if peer in live}
                self._head_times = {peer: since for peer, since in self._head_times.items() if peer in live}
            case Offered(contribution):
                self._offer(contribution)
            case Stored(payload, usable):
                self._payloads.arrived(payload, usable)
                if usable:
                    actions.append(SayHolding(payload))
            case FetchFailed(payload):
                self._payloads.failed(payload, now)
            case Holding(peer, payloads):
                self._payloads.claimed(peer, payloads)
            case Committed(commit, source):
                actions += self._committed(commit, source, now)
            case Applied(head):
                actions += self._applied(head, now)
            case ApplyFailed(digest, differs):
                self._applying.discard(digest)
                self.chain.refuse(digest, differs)
            case HeadSeen(peer, None):
                self._heads.pop(peer, None)
                self._head_times.pop(peer, None)
            case HeadSeen(peer, Head() as head):
                if self._heads.get(peer) != head:
                    self._heads[peer], self._head_times[peer] = head, now
            case Resumed():
                self._round = _Open(now)
                self._head_since, self._apart_since = now, None
                self._quiet_until = now + QUIET_AFTER_RESUMING
            case Tick():
                pass
        return actions + self._next(now)

    # Looking -------------------------------------------------------------------------------------------------------

    def knows(self, offer: Contribution) -> bool:
        """Whether this very contribution, or another one of its author for its height and base, is known."""
        return offer.author in self._offers.get((offer.height, offer.base), {})

    def holders(self, payload: Digest) -> Set[PeerId]:
        """Who says that he holds a payload."""
        return self._payloads.holders(payload)

    def open_news(self) -> tuple[tuple[Contribution, ...], tuple[Digest, ...]]:
        """My open contributions, and the open payloads that are usable here: what heartbeats repeat."""
        offers = [part for _, parts in self._open_offers() for part in parts.values()]
        mine = tuple(part for part in offers if part.author == self.me)
        return mine, tuple(part.payload for part in offers if self._payloads.is_usable(part.payload))

    def is_idle(self) -> bool:
        """No commit waits to be applied."""
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
        # The first one counts: an author who signs two for one height only hurts himself.
        self._offers[key].setdefault(contribution.author, contribution)
        self._payloads.claimed(contribution.author, [contribution.payload])

    def _committed(self, commit: Commit, source: PeerId, now: float) -> list[Action]:
        if self.rules.last_height is not None and commit.height > self.rules.last_height:
            return []
        verdict = self.chain.add(commit)
        if verdict is Verdict.ADDED and commit.parent == self.head.commit and self._round.extended_since is None:
            self._round.extended_since = now
            if self._round.closable_since is not None:
                self._pace.commit_arrived(now - self._round.closable_since)
        if verdict is Verdict.ORPHAN:
            return self._ask_for(commit.parent, source, now)
        return []

    def _applied(self, head: Head, now: float) -> list[Action]:
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
        return [HeadChanged(self.head, depth)]

    def _forget(self) -> None:
        """Drop what only concerns heights that lie behind the head by more than a fork could reach."""
        self.chain.forget_below(self.head.height - self.rules.rollback_depth)
        for key in [key for key in self._offers if key[0] <= self.head.height - self.rules.fragments]:
            del self._offers[key]
        needed = {part.payload for offers in self._offers.values() for part in offers.values()}
        needed |= {part.payload for commit in self.chain.commits() for part in commit.contributions}
        self._payloads.keep_only(needed)
        self._hurried = {height for height in self._hurried if height > self.head.height}
        self._proposed = {parent for parent in self._proposed if parent in self.chain}

    # Deciding ------------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> list[Action]:
        actions = self._fetch_and_apply(now)
        actions += self._follow_heads(now)
        if self.rules.last_height is None or self.head.height < self.rules.last_height:
            actions += self._close(now)
            actions += self._hurry()
        return actions

    def _fetch_and_apply(self, now: float) -> list[Action]:
        """Get the bytes of every contribution that may be listed or is; apply the commits whose bytes are here."""
        actions: list[Action] = []
        wanted = [part for _, offers in self._open_offers() for part in offers.values()]
        for commit in self.chain.ready():
            absent = [part for part in commit.contributions if not self._payloads.is_here(part.payload)]
            wanted += absent
            if not absent and commit.digest not in self._applying:
                self._applying.add(commit.digest)
                actions.append(Apply(commit))
        return actions + [FetchPayload(part) for part in self._payloads.to_fetch(wanted, now)]

    def _follow_heads(self, now: float) -> list[Action]:
        """Ask for the commits behind heads that are not known here; start over where disagreement stays.

        Disagreement ends by itself once everyone has applied the same commits: a peer that is on its way to a head,
        however slowly the bytes arrive, does not disagree with it. It stays where bytes can't be had any more, where
        states differ, or where somebody joined from a snapshot above the fork and can't go back. Then the smaller
        side gives in; of two equal sides, the lighter one. Who is still joining is on no side.
        """
        actions: list[Action] = []
        for peer, head in self._heads.items():
            if head.commit not in self.chain and self._is_elsewhere(peer, head, now):
                actions += self._ask_for(head.commit, peer, now)
        elsewhere = {
            peer: head
            for peer, head in self._heads.items()
            if self._is_elsewhere(peer, head, now) and not self._is_on_the_way_to(head)
        }
        together = 1 + len(self._heads.keys() - elsewhere.keys())
        best = max((head.rank for head in elsewhere.values()), default=self.head.rank)
        if (len(elsewhere), best) <= (together, self.head.rank):
            self._apart_since = None
        elif self._apart_since is None:
            self._apart_since = now
        elif now - self._apart_since > STUCK_AFTER:
            self._apart_since = None
            differs = any(self.chain.contradicts(head) for head in elsewhere.values())
            reason = "my state differs from the others'" if differs else "the others' commits don't lead from mine"
            actions.append(Resync(reason))
        return actions

    def _is_elsewhere(self, peer: PeerId, head: Head, now: float) -> bool:
        """Whether a peer's head is not mine and not below it. One that lies too far back to be known, and does not
        move, is no mere laggard's."""
        on_mine = self.chain.is_on_branch(head)
        return not on_mine if on_mine is not None else now - self._head_times[peer] > STUCK_AFTER

    def _is_on_the_way_to(self, head: Head) -> bool:
        """Whether commits lead there that are only waiting for their bytes or to be applied."""
        path = self.chain.path_to(head.commit)
        if not path or self.chain.contradicts(head):
            return False
        parts = (part for commit in path for part in commit.contributions)
        return not any(self._payloads.is_failing(part.payload) for part in parts)

    def _ask_for(self, tip: Digest, source: PeerId, now: float) -> list[Action]:
        if now < self._asked.get(tip, 0.0) or source == self.me:
            return []
        self._asked = {digest: until for digest, until in self._asked.items() if until > now}
        self._asked[tip] = now + RETRY_ASKING
        return [FetchCommits(tip, source)]

    def _close(self, now: float) -> list[Action]:
        """Commit the round above the head if it can be closed and it is this peer's turn."""
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
        return [Propose(self.head.height + 1, parent, self.head.state, attempt, tuple(chosen))]

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
        usable = [
            part for part in self._offers_for(self.head.height + 1).values() if self._payloads.is_usable(part.payload)
        ]
        return [part for part in usable if lonely or self.holders(part.payload) & others]

    def _offers_for(self, height: int) -> dict[PeerId, Contribution]:
        base = self.chain.base_for(height, self.head.commit)
        return self._offers.get((height, base), {}) if base is not None else {}

    def _open_offers(self) -> list[tuple[int, dict[PeerId, Contribution]]]:
        """Offers for the rounds in preparation, on this branch, by height."""
        heights = {height for height, _ in self._offers}
        first, last = self.head.height + 1, self.head.height + self.rules.fragments
        return [(height, self._offers_for(height)) for height in sorted(heights) if first <= height <= last]

    def _is_behind(self, now: float) -> bool:
        """Most of the others are further: what this peer lacks is their commits, not one of its own."""
        further = sum(head.height > self.head.height for head in self._heads.values())
        return now < self._quiet_until or 2 * further > len(self._live - {self.me})

    def _is_extended(self) -> bool:
        return any(commit.parent == self.head.commit for commit in self.chain.ready())

    def _let_be(self, now: float) -> bool:
        """A commit on the head is being fetched or applied: give it time before making a rival."""
        since = self._round.extended_since
        return since is not None and self._is_extended() and now - since < 3 * self._pace.attempt_timeout()

    def _candidates(self) -> frozenset[PeerId]:
        recent = islice(self.chain.back_from(self.head.commit), RECENT_COMMITS)
        contributors = {part.author for commit in recent for part in commit.contributions}
        return (self._trainers & contributors) or self._trainers

    def _hurry(self) -> list[Action]:
        """Contribute what there is where a quorum of others already has, lowest height first."""
        if self.rules.patient or self.me not in self._trainers:
            return []
        for height, offers in self._open_offers():
            if self.me in offers or height in self._hurried:
                continue
            if len(offers) >= quorum(len(self._trainers)):
                self._hurried.add(height)
                return [Hurry(height)]
        return []
