"""The part of a one-byte exchange that lives on the network thread. It hears batches, keeps them, pulls those that it
has missed, and agrees on marks. Two worker threads do what computes or writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace

from p2ptrain.errors import MalformedError
from p2ptrain.method import Background, Tell, trainers_of
from p2ptrain.run import Digest, PeerId, short_peer
from p2ptrain.run.access import owners_of
from p2ptrain.spsa.archive import Archive, take_cut
from p2ptrain.spsa.join import Joiner
from p2ptrain.spsa.logbook import Logbook, Verdict
from p2ptrain.spsa.marks import Marks
from p2ptrain.spsa.messages import Equivocation, LogBatch, Mark, Revocation
from p2ptrain.spsa.position import Position
from p2ptrain.spsa.reconcile import LAST_WORDS, End, ask_batches, ask_cuts, ask_summary
from p2ptrain.spsa.reconcile import serve as serve_logs
from p2ptrain.spsa.snapshots import Snapshots
from p2ptrain.spsa.state import MasterState
from p2ptrain.spsa.view import View
from p2ptrain.state import Fetcher
from p2ptrain.state import serve as serve_blobs
from p2ptrain.state.logs import Log
from p2ptrain.state.run import Run
from p2ptrain.state.workers import Workers
from p2ptrain.swarm import GONE_AFTER, Membership, Presence, RpcError, Vitals, monotonic
from p2ptrain.swarm.rpc import RateLimit

TICK_SECONDS = 1.0
FIRST_SECONDS = 30.0
"""Seconds for which a newcomer looks for a peer that answers its first pull."""
PULL_SECONDS = 60.0
"""Seconds that one pull from one peer may take."""
DIFFERENT_SECONDS = 6.0
"""Seconds before this peer pulls from one whose records differ: gossip may still bring them."""
RECENT_DIGESTS = 256
NEW_LOGS_RATE, NEW_LOGS_BURST = 0.2, 20.0
"""New logs of one author that gossip may bring, per second and at once. Further ones wait until they are pulled."""

log = logging.getLogger(__name__)


class Shell:
    """The network side of one peer's part in a run. Its twin is `diloco.shell`."""

    def __init__(self, run: Run, report: Callable[[], Vitals], show: Callable[[View], None], tell: Tell) -> None:
        self._run, self._report, self._show_view, self._tell = run, report, show, tell
        self._swarm = run.swarm
        self.archive = Archive(run.folder.ledger)
        self.book = Logbook(run.id, owners_of(run.folder.genesis, run.spec))
        self.snapshots = Snapshots(run.folder, run.blobs, run.limits)
        self._workers = Workers()
        self.membership = Membership(
            self._swarm, run.id, self._vitals, lambda: b"", run.remembered_addresses, run.announcement()
        )
        fetcher = Fetcher(self._swarm.rpc, run.blobs, run.down)
        self._joiner = Joiner(run, self.membership, fetcher, tell)
        self.marks = Marks(run, self.membership, fetcher, self.archive, self.snapshots, self._workers, tell)
        self._new_logs = RateLimit(NEW_LOGS_RATE, NEW_LOGS_BURST)
        self._on_disk: dict[Log, int] = {}
        self._unwritten: list[LogBatch] = []
        self._writing = self._pulling = False
        self._background = Background(self._swarm)
        self.spawn = self._background.spawn
        self._remembered: set[PeerId] = set()
        self._agreed: dict[PeerId, float] = {}
        """For each peer, when this one last had all its records."""
        self._recent: OrderedDict[Digest, None] = OrderedDict()
        """Digests of the records here, now and lately: a peer that announces an older one is only a bit behind."""
        self._expected: set[PeerId] = set()
        """Peers in the directory at the start."""
        self._needed: Position = {}
        """The records in the state from which this peer began. They have to be here, in case some are taken back."""
        self._searched: set[tuple[PeerId, Log]] = set()
        self._started = monotonic()
        self._view = View({}, self.book.digest({}))
        self._refused: Counter[str] = Counter()
        """Number of batches that were not used, by reason."""

    # Starting --------------------------------------------------------------------------------------------------------

    async def start(self, base: MasterState) -> MasterState:
        """See `Exchange.start`. The records that count may go beyond the returned state."""
        await self._workers.compute(self.archive.read_into, self.book)
        self._on_disk = self.book.lengths()
        self._publish_view()
        await serve_blobs(self._swarm.rpc, self._run.blobs, self._run.up)
        logs = self._run.folder.ledger.logs
        await serve_logs(
            self._swarm.rpc, self._run.id, self._ends, logs, self.archive.cuts, self._take_cut, self._run.up
        )
        state = await self._workers.compute(self.snapshots.restore, self.book.holds)
        if state is None and self._run.founding:
            state = base
            await self._workers.compute(self.snapshots.save, base)
        self.membership.listener = self
        await self.membership.start()
        if not self._run.founding:
            self._expected = set(await self.membership.directory())
        if state is None:
            await self._pull_at_first()
            state = await self._joiner.find_state(base, self.book.allows)
            await self._workers.compute(self.snapshots.save, state)
            self._run.folder.incoming.forget_all()
        self.marks.begin(state)
        self._needed = state.position
        self.spawn(self._tick())
        return state

    async def stop(self) -> None:
        """See `NetworkSide`."""
        self.membership.listener = None
        await self._background.stop()
        await self.membership.close()

    def save_and_end(self) -> None:
        """After `stop`, on any thread: note the others' addresses, and end the workers."""
        self._workers.end(self._note_peers)

    # What the swarm says (network thread) ----------------------------------------------------------------------------

    def heard(self, presence: Presence, news: bytes) -> None:
        if presence.commit in self._recent:
            self._agreed[presence.author] = monotonic()
        self._show_view(self._view)  # wakes a trainer that waits until others agree
        self.spawn(self.marks.compare(presence))

    def message(self, origin: PeerId, kind: str, data: bytes) -> None:
        if kind == LogBatch.kind:
            self._hear_batch(origin, data)
        elif kind == Mark.kind:
            self.spawn(self.marks.hear(Mark.decode(data), self.book.standing()))
        elif kind in (Revocation.kind, Equivocation.kind):
            self._take_cut(data)
        else:
            raise MalformedError("a message of an unknown kind")

    def peers_changed(self, live: Mapping[PeerId, Presence]) -> None:
        self._show_view(self._view)  # wakes a trainer that waits for peers
        if live.keys() - self._remembered:
            self._remembered = set(live)
            self.spawn(self._workers.write(self._note_peers))

    def resumed(self) -> None:
        """Nothing has to be done: the next tick pulls what was missed."""

    def _hear_batch(self, origin: PeerId, data: bytes) -> None:
        batch = LogBatch.decode(data)  # membership counts malformed messages
        if batch.log.author != origin:
            self._refused["not its author's"] += 1
            return
        if batch.start == 0 and not self._new_logs.allows(origin):
            self._refused["too many logs"] += 1
            return
        self._take(batch, origin)

    def _take(self, batch: LogBatch, source: PeerId) -> Verdict:
        """Judge a batch that gossip or a pull has brought, and keep it if it is the next one of its log."""
        verdict = self.book.judge(batch)
        match verdict:
            case Verdict.NEXT:
                self.book.append(batch)
                self._unwritten.append(batch)
                if not self._writing:
                    self._writing = True
                    self.spawn(self._write())
            case Verdict.AHEAD:
                self._refused["gap"] += 1
                self._agreed.pop(source, None)  # the next tick pulls from it
            case Verdict.CUT:
                self._refused["cut"] += 1
            case Verdict.BACKWARDS:
                self._refused["clock"] += 1
            case Verdict.CONTRADICTS:
                self.spawn(self._convict(batch))
            case Verdict.PARTED:
                self._refused["forged"] += 1
                if (source, batch.log) not in self._searched:  # once: forgers could make this peer read again and again
                    self._searched.add((source, batch.log))
                    self.spawn(self._read_from_the_beginning(source, batch.log))
        return verdict

    async def _write(self) -> None:
        """Write batches that have arrived to disk. Only those on disk are shown to the trainer and to others."""
        try:
            while self._unwritten:
                batches, self._unwritten = self._unwritten, []
                await self._workers.compute(self.archive.keep, batches)
                for batch in batches:
                    self._on_disk[batch.log] = batch.stop
                self._publish_view()
        finally:
            self._writing = False

    def _publish_view(self) -> None:
        standing = self.book.standing()
        there = {name: min(count, self._on_disk.get(name, 0)) for name, count in standing.items()}
        mine, digest = self.book.is_revoked(self._swarm.peer_id), self.book.digest(there)
        self._recent[digest] = None
        self._recent.move_to_end(digest)
        if len(self._recent) > RECENT_DIGESTS:
            self._recent.popitem(last=False)
        self._view = replace(self._view, standing=there, digest=digest, revoked=mine)
        self._show_view(self._view)

    # Lies ------------------------------------------------------------------------------------------------------------

    async def _convict(self, batch: LogBatch) -> None:
        place = batch.log, batch.start
        stored = next((other for other in self._unwritten if (other.log, other.start) == place), None)
        if stored is None:
            stored = await self._workers.compute(self.archive.batch_at, batch.log, batch.start)
        self._take_cut(self.book.proof(batch, stored).encoded)

    def _take_cut(self, data: bytes) -> None:
        """Have a revocation or a proof take effect. If it is new, keep it and pass it on."""
        cut = take_cut(self.book, data, self.membership.knows)
        if cut is not None:
            log.warning("%s", cut.words)
            self._tell("cut", {"text": cut.words})
            self.spawn(self._keep_cut(cut))

    async def _keep_cut(self, cut: Revocation | Equivocation) -> None:
        await self._workers.compute(self.archive.keep_cut, cut)
        await self._workers.write(self.snapshots.keep_only, self.book.allows)
        self._publish_view()
        await self.membership.publish(cut)

    async def _read_from_the_beginning(self, source: PeerId, name: Log) -> None:
        """The whole log shows whether a batch is forged, or its author contradicted itself in an earlier one."""
        with contextlib.suppress(RpcError, MalformedError):
            await self._pull_log(source, name, 0)

    # Pulling ---------------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._pull_from_one()
            if not self._view.caught_up and self._has_caught_up():
                self._view = replace(self._view, caught_up=True)
                self._show_view(self._view)
            await self.marks.tick(self._view.standing, self.trainers())

    def _pull_from_one(self) -> None:
        """Pull from a peer whose records have differed for some time, or that was never asked."""
        if self._pulling:
            return
        now = monotonic()
        for peer, seen in self.membership.live.items():
            if seen.commit in self._recent:
                self._agreed[peer] = now
        long_ago = now - DIFFERENT_SECONDS
        different = [peer for peer in self.membership.live if self._agreed.get(peer, long_ago) <= long_ago]
        if different:
            self._pulling = True
            self.spawn(self.pull(random.choice(different)))

    def _has_caught_up(self) -> bool:
        """Whether this peer has all records of another one, or is alone, and has heard all peers in the directory."""
        live = {peer for peer, seen in self.membership.live.items() if seen.phase != "joining"}
        unheard = self._expected - self.membership.live.keys() and monotonic() - self._started < GONE_AFTER
        if unheard or self._writing or not self.book.holds(self._needed):
            return False
        return not live or bool(live & self._agreed.keys())

    async def _pull_at_first(self) -> None:
        """A newcomer pulls before it chooses a snapshot, because it has to know what was cut."""
        deadline = monotonic() + FIRST_SECONDS
        while not self._agreed and monotonic() < deadline:
            for peer, seen in list(self.membership.live.items()):
                if seen.phase not in ("starting", "joining"):
                    await self.pull(peer)
            await asyncio.sleep(TICK_SECONDS / 4)

    async def pull(self, peer: PeerId) -> None:
        """Fetch all cuts and records that a peer has and this one lacks."""
        run = self._run.id
        try:
            async with asyncio.timeout(PULL_SECONDS):
                async for data in ask_cuts(self._swarm.rpc, peer, run):
                    self._take_cut(data)
                summary = await ask_summary(self._swarm.rpc, peer, run)
                for name, end in sorted(summary.items()):
                    if not self.membership.knows(name.author):
                        self._refused["not a member's"] += 1
                        continue
                    start = self.book.missing(name, end.length, end.last)
                    if start is not None:
                        await self._pull_log(peer, name, start)
                self._agreed[peer] = monotonic()
        except (RpcError, MalformedError, TimeoutError) as error:
            log.info("missing records could not be pulled from %s: %s", short_peer(peer), error)
        finally:
            self._pulling = False

    async def _pull_log(self, peer: PeerId, name: Log, start: int) -> None:
        async with contextlib.aclosing(ask_batches(self._swarm.rpc, peer, self._run.id, name, start)) as batches:
            async for batch in batches:
                if self._take(batch, peer) in (Verdict.CONTRADICTS, Verdict.PARTED, Verdict.BACKWARDS):
                    return

    # What this peer says ---------------------------------------------------------------------------------------------

    def _vitals(self) -> Vitals:
        return replace(
            self._run.describe(self._report()),
            height=sum(self._view.standing.values()),
            commit=self._view.digest,
            state=self.marks.state,
            snapshots=self.snapshots.offered[:8],
        )

    async def beat(self) -> None:
        """Send a heartbeat now."""
        await self.membership.beat()

    def trainers(self) -> frozenset[PeerId]:
        """The peers that train or are ready to, this one included."""
        return trainers_of(self.membership, self._swarm.peer_id, self._report().phase)

    @property
    def refused(self) -> Mapping[str, int]:
        """Number of others' messages and batches that were not used, by reason."""
        return self._refused + self.membership.dropped

    async def say(self, batch: LogBatch) -> None:
        """Announce this peer's own batch, which is on disk already."""
        verdict = self.book.judge(batch)
        if verdict is Verdict.CUT:
            return  # an owner has revoked this peer meanwhile
        assert verdict is Verdict.NEXT, "only this peer writes to its log"
        self.book.append(batch)
        self._on_disk[batch.log] = batch.stop
        self._publish_view()
        await self.membership.publish(batch)

    def _ends(self) -> dict[Log, End]:
        position = self._view.standing
        return {name: End(count, self.book.last_words(name, count)[:LAST_WORDS]) for name, count in position.items()}

    def _note_peers(self) -> None:
        self._run.remember_peers(list(self.membership.live.values()))
