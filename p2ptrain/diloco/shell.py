"""The network side of an exchange: it hears the other peers, feeds the state machine and carries out what that decides.

All of it runs on the network thread, except computing and writing to disk. Each of these has a worker thread of its
own, which does one thing after another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice

from p2ptrain.diloco import events
from p2ptrain.diloco.border import Border
from p2ptrain.diloco.chain import Chain, Commit, Contribution
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.gathering import Gathering
from p2ptrain.diloco.join import Joiner, parts_below, serve_commits
from p2ptrain.diloco.news import HoldingNews, News
from p2ptrain.diloco.outer import self_test
from p2ptrain.diloco.replica import Replica, StartingPoint, StateGone
from p2ptrain.diloco.round import Rounds, Rules
from p2ptrain.diloco.state import GlobalState
from p2ptrain.diloco.view import View
from p2ptrain.errors import LedgerError, MalformedError
from p2ptrain.method import Background, Tell, trainers_of
from p2ptrain.run import NO_DIGEST, Digest, PeerId, short
from p2ptrain.run.head import Head
from p2ptrain.state import Fetcher
from p2ptrain.state import serve as serve_blobs
from p2ptrain.state.run import Run
from p2ptrain.state.workers import Workers
from p2ptrain.swarm import GONE_AFTER, Membership, Presence, Vitals, monotonic

TICK_SECONDS = 0.1

log = logging.getLogger(__name__)


class Shell:
    """The network side of one peer's part in a run.

    Args:
        report: returns what the trainer says of itself; called for every heartbeat.
        show: called with every new view.
        tell: called with a name and facts of what has happened, for people and programs.
    """

    def __init__(
        self, run: Run, layout: Layout, report: Callable[[], Vitals], show: Callable[[View], None], tell: Tell
    ) -> None:
        self._run, self._report = run, report
        self._show_view, self._tell = show, tell
        self._swarm, self._spec = run.swarm, run.spec
        self._border = Border.of(run.id, run.spec, layout.sizes)
        self._replica = Replica(run.folder, layout, run.blobs, run.limits)
        fetcher = Fetcher(self._swarm.rpc, run.blobs, run.down)
        self._workers, self._background = Workers(), Background(self._swarm)
        self.spawn = self._background.spawn
        self.membership = Membership(
            self._swarm, run.id, self._vitals, self._news, run.remembered_addresses, run.announcement()
        )
        self._joiner = Joiner(self._swarm, self.membership, fetcher, layout, run.folder, self._border, tell)
        self._gathering = Gathering(
            self._joiner, fetcher, self._replica, self._workers, self.membership, self._feed_asked, self.spawn
        )
        self._begun: Rounds | None = None
        """None until there is a state to start from."""
        self._view: View
        self._latest: GlobalState
        self._resyncing = False
        self._remembered: set[PeerId] = set()
        self._expected: set[PeerId] = set()
        self._started = monotonic()
        self.hurry = 0
        """The last height for which a quorum of others has waited for this peer's contribution."""

    # Starting --------------------------------------------------------------------------------------------------------

    async def start(self, initial: View) -> None:
        """Resume, found or join the run. Returns when there is a state to start from."""
        base = initial.state
        self._show(initial)
        await self._workers.compute(self_test)
        await serve_blobs(self._swarm.rpc, self._run.blobs, self._run.up)
        await serve_commits(self._swarm.rpc, self._find_commit, self._run.up)
        position = await self._workers.compute(self._replica.restore)
        if position is None and self._run.founding:
            position = StartingPoint(base)
            await self._workers.compute(self._replica.begin, position)
        if position is not None:
            self._begin(position)
        self.membership.listener = self
        await self.membership.start()
        if not self._run.founding:
            self._expected = set(await self.membership.directory())
        if position is None:
            await self._join(base)
        self.spawn(self._tick())

    async def _join(self, base: GlobalState, deepest: int | None = None) -> None:
        position = await self._joiner.find_start(base, deepest)
        if deepest is not None and parts_below(self._rounds.chain, position, deepest):
            raise LedgerError(
                f"the others' branch left this peer's more than {self._spec.limits.rollback_depth} heights ago",
                "the spec (limits.rollback_depth) does not let a peer take back so many commits by itself",
                f"to follow the others, move {self._run.folder.path} away and join again",
            )
        old = self._view.head
        await self._workers.compute(self._replica.begin, position)
        self._keep_branch(position.history)  # snapshots of the old branch may still have been due
        self._begin(position)
        if old.height > 0:
            new = position.above[-1].digest if position.above else position.state.commit
            await self._tell_rollback(old.commit, new)

    def _begin(self, position: StartingPoint) -> None:
        """Start the state machine at a position, and give it the known commits above."""
        method, limits = self._spec.diloco, self._spec.limits
        chain = Chain(position.state.head, method.fragments, position.history)
        rules = Rules(method.fragments, method.overlap != "free", limits.rollback_depth, method.last_height)
        self._begun = Rounds(self._swarm.peer_id, chain, rules, monotonic())
        self._show(self._picture(position.state, self._view.state is not position.state))
        self._feed_peers()
        for commit in position.above:
            for part in commit.contributions:
                if part.payload in self._run.blobs:
                    self._feed(events.Stored(part, usable=True))
            self._feed(events.Committed(commit, self._swarm.peer_id))

    async def stop(self) -> None:
        """See `NetworkSide`."""
        self.membership.listener = None
        await self._background.stop()
        await self.membership.close()

    # What the swarm says (network thread) ----------------------------------------------------------------------------

    def heard(self, presence: Presence, news: bytes) -> None:
        peer = presence.author
        head = Head(presence.height, presence.commit, presence.state, presence.weight)
        self._feed(events.HeadSeen(peer, None if presence.phase in ("starting", "joining") else head))
        if news:
            decoded = News.decode(news)
            for offer in decoded.offers:
                self._take_offer(peer, offer)
            self._feed(events.Holding(peer, decoded.payloads))

    def message(self, origin: PeerId, kind: str, data: bytes) -> None:
        if kind == Contribution.kind:
            self._take_offer(origin, Contribution.decode(data))
        elif kind == Commit.kind:
            commit = Commit.decode(data)
            if self._begun and commit.digest not in self._begun.chain:
                self._feed(events.Committed(self._border.check_commit(commit, self.membership.knows), origin))
        elif kind == HoldingNews.kind:
            self._feed(events.Holding(origin, HoldingNews.decode(data).payloads))
        else:
            raise MalformedError("a message has an unknown kind")

    def peers_changed(self, live: Mapping[PeerId, Presence]) -> None:
        self._feed_peers()
        self._show_view(self._view)  # a trainer that waits for peers looks again
        if live.keys() - self._remembered:
            self._remembered = set(live)
            self.spawn(self._workers.write(self._note_peers))

    def resumed(self) -> None:
        self._feed(events.Resumed())

    def _take_offer(self, origin: PeerId, offer: Contribution) -> None:
        if offer.author != origin:
            raise MalformedError("a contribution is by another peer than the one that says it")
        self._border.check_contribution(offer)
        if self._begun and not self._begun.knows(offer):
            self._feed(events.Offered(offer.check_signature()))

    # What this peer says ---------------------------------------------------------------------------------------------

    def _vitals(self) -> Vitals:
        head = self._view.head
        return replace(
            self._run.describe(self._report()),
            height=head.height,
            commit=head.commit,
            state=head.state,
            weight=head.weight,
            snapshots=self._replica.snapshots.offered[:8],
            taken_back=self._replica.taken_back,
        )

    def _news(self) -> bytes:
        if not self._begun:
            return b""
        offers, payloads = self._begun.open_news()
        return News(offers=offers[:32], payloads=payloads[:256]).encoded

    async def beat(self) -> None:
        """See `NetworkSide`."""
        self._feed_peers()
        await self.membership.beat()

    def trainers(self) -> frozenset[PeerId]:
        """See `NetworkSide`."""
        return trainers_of(self.membership, self._swarm.peer_id, self._report().phase)

    @property
    def refused(self) -> Mapping[str, int]:
        """See `NetworkSide`."""
        return self.membership.dropped

    async def offer(self, offer: Contribution, data: bytes) -> None:
        """Keep the trainer's contribution, take it into its round and announce it."""
        await self._workers.compute(self._replica.store_payload, offer, data, self._view.state)
        self._feed(events.Offered(offer))
        self._feed(events.Stored(offer, usable=True))
        await self.membership.publish(offer)

    @property
    def _rounds(self) -> Rounds:
        assert self._begun is not None, "there is a state to start from"
        return self._begun

    # Carrying out ----------------------------------------------------------------------------------------------------

    def _feed(self, event: events.Event) -> None:
        if self._begun and not self._background.stopping:
            for action in self._begun.handle(event, monotonic()):
                self._perform(action)

    def _feed_asked(self, rounds: Rounds, event: events.Event) -> None:
        """Feed an event that `rounds` has asked for, unless a new snapshot has replaced it meanwhile."""
        if rounds is self._rounds:
            self._feed(event)

    def _feed_peers(self) -> None:
        live = frozenset({self._swarm.peer_id, *self.membership.live})
        self._feed(events.PeersChanged(self.trainers(), live))

    def _perform(self, action: events.Action) -> None:
        match action:
            case events.FetchPayload(contribution):
                self._gathering.fetch(contribution, self._rounds, lambda: self._view.state)
            case events.FetchCommits(tip, source):
                self.spawn(self._gathering.fetch_commits(tip, source, self._rounds))
            case events.SayHolding(payload):
                self._gathering.tell(payload)
            case events.Propose():
                self.spawn(self._propose(action))
            case events.Apply(commit):
                self.spawn(self._apply(commit))
            case events.HeadChanged(head, rolled_back):
                self._adopt(head, rolled_back)
            case events.Hurry(height):
                self.hurry = height
            case events.Resync(reason):
                self.spawn(self._resync(reason))

    async def _propose(self, proposal: events.Propose) -> None:
        commit = Commit(
            author=self._swarm.peer_id,
            run=self._run.id,
            height=proposal.height,
            parent=proposal.parent,
            state=proposal.state,
            attempt=proposal.attempt,
            contributions=proposal.contributions,
        ).signed(self._swarm.key)
        await self.membership.publish(commit)
        self._feed(events.Committed(commit, self._swarm.peer_id))

    async def _apply(self, commit: Commit) -> None:
        rounds = self._rounds
        try:
            applied = await self._workers.compute(self._replica.apply, commit)
            event: events.Event = events.Applied(applied.state.head)
            self._latest = applied.state
            for part in applied.refused:
                log.warning("the contribution of %s in commit %d does not count", part.author, commit.height)
        except StateGone as error:
            log.info("the branch of commit %s can't be followed: %s", short(commit.digest), error.why)
            event = events.ApplyFailed(commit.digest, differs=False)
        except LedgerError as error:
            log.error("%s: %s", error.what, error.why)
            event = events.ApplyFailed(commit.digest, differs=True)
        self._feed_asked(rounds, event)

    def _adopt(self, head: Head, rolled_back: int) -> None:
        state, old = self._latest, self._view.head.commit
        assert state.commit == head.commit, "a head changes by being applied"
        self._show(self._picture(state, rolled_back > 0))
        if rolled_back:
            self.spawn(self._tell_rollback(old, head.commit))
            self._keep_branch(self._rounds.chain.back_from(head.commit))
        self.spawn(self._workers.compute(self._run.folder.ledger.set_head, head.commit))
        if head.height % self._spec.diloco.snapshot_every == 0:
            self.spawn(self._workers.write(self._replica.snapshots.save, state))
            self.spawn(self._workers.write(self._note_peers))
        self._gathering.give_up_stale(self._rounds)
        self._tell("commit", {"commit": self._view.commits[head.height], "head": head, "rolled_back": rolled_back})

    def _keep_branch(self, commits: Iterable[Commit]) -> None:
        """Once all snapshots that are due now are written, forget those of other branches than this one."""
        branch = {NO_DIGEST, *(digest for commit in commits for digest in (commit.digest, Digest(commit.parent)))}
        self.spawn(self._workers.write(self._replica.snapshots.keep_branch, branch))

    async def _tell_rollback(self, old: Digest, new: Digest) -> None:
        cost = await self._workers.compute(self._replica.note_rollback, old, new, self._swarm.peer_id)
        if cost.commits:
            self._tell("rollback", {"cost": cost})

    def _note_peers(self) -> None:
        """Keep for the next start where other peers are reachable, and the heads that they claim."""
        peers = list(self.membership.live.values())
        self._run.remember_peers(peers)
        self._replica.note_heads(peers)

    def _picture(self, state: GlobalState, rolled_back: bool) -> View:
        """The view of a head, with as many commits as the trainer may ask for."""
        recent = islice(self._rounds.chain.back_from(state.commit), 2 * self._spec.diloco.fragments + 1)
        commits = {commit.height: commit for commit in recent}
        return View(state, self._view.rollbacks + rolled_back, commits, self._view.caught_up)

    def _show(self, view: View) -> None:
        self._view = view
        self._show_view(view)

    async def _resync(self, reason: str) -> None:
        """Start again from the others' snapshot. `_join` refuses if that takes back more than the spec allows."""
        if self._resyncing:
            return
        head = self._view.head
        log.error("at height %d (%s): %s; fetching the swarm's state again", head.height, short(head.state), reason)
        self._tell("resync", {"reason": reason, "head": head})
        self._resyncing = True
        try:
            self._show(replace(self._view, caught_up=False))
            await self._join(self._view.state, head.height - self._spec.limits.rollback_depth)
        finally:
            self._resyncing = False

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._feed(events.Tick())
            if not self._view.caught_up and self._has_caught_up():
                self._show(replace(self._view, caught_up=True))
                self.spawn(self._workers.write(self._run.folder.incoming.forget_all))

    def _has_caught_up(self) -> bool:
        """Whether all peers in the directory have been heard, and at most half of those that train are more than one
        commit ahead on a branch at least as heavy. So one liar can't keep this peer waiting."""
        live, mine = self.membership.live, self._view.head
        unheard = self._expected - live.keys() and monotonic() - self._started < GONE_AFTER
        if self._resyncing or unheard or not self._rounds.is_idle():
            return False
        training = [seen for seen in live.values() if seen.phase == "training"]
        ahead = [seen.height > mine.height + 1 and seen.weight >= mine.weight for seen in training]
        return 2 * sum(ahead) <= len(training)

    def _find_commit(self, digest: Digest) -> bytes | None:
        commit = self._begun.chain.commit(digest) if self._begun else None
        return commit.encoded if commit else self._run.folder.ledger.commit(digest)

    def save_and_end(self) -> None:
        """See `NetworkSide`: what must not be lost is a snapshot of the head."""
        self._workers.end(self._save)

    def _save(self) -> None:
        if self._begun:
            self._note_peers()
            self._replica.snapshots.save(self._view.state)
