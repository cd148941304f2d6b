"""Membership of one run: sends and receives heartbeats, knows which peers are alive, and carries the method's gossip.

The method (DiLoCo or one-byte SPSA) is a `Listener`: it gets the peers' messages and learns who is alive. What it has
to say regularly goes with each heartbeat as `news`, so nobody misses it for longer than two seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from p2ptrain.errors import MalformedError, NetworkError
from p2ptrain.run import NO_DIGEST, PROTOCOL, Digest, PeerId, short_peer
from p2ptrain.run.record import kind_of
from p2ptrain.swarm.addresses import by_peer
from p2ptrain.swarm.announcement import Announcement
from p2ptrain.swarm.node import ControlError, Gossip
from p2ptrain.swarm.presence import HEARTBEAT_SECONDS, Heartbeat, PeerTable, Phase, Presence, monotonic
from p2ptrain.swarm.rpc import RateLimit, RpcError
from p2ptrain.swarm.swarm import Swarm, version

ANNOUNCE_SECONDS = 20.0
LOOK_SECONDS = 0.5
LIST_SECONDS = 120.0
LISTERS = 2.0
"""How many peers of a run, on average, announce it within that time. An entry lives five times as long."""
UNHEARD_SECONDS = 10.0
"""A connection to a peer of the run is opened anew if no heartbeat has come for so long."""
NEIGHBOURS = 12
"""Peers that this one connects to by itself. libp2p's gossip reaches all others through them."""
ACQUAINTANCES = 4
"""Former peers that are tried at the same time, while others are there."""
GOSSIP_RATE, GOSSIP_BURST = 50.0, 300.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a peer says about itself in each heartbeat; `Presence` explains the fields."""

    phase: Phase
    device: str = ""
    height: int = 0
    commit: Digest = NO_DIGEST
    state: Digest = NO_DIGEST
    weight: int = 0
    steps: int = 0
    tokens: int = 0
    tokens_per_second: float = 0.0
    loss: float | None = None
    eval_height: int = 0
    eval_loss: float | None = None
    held_out: Digest = NO_DIGEST
    snapshots: tuple[tuple[int, Digest], ...] = ()
    bytes_sent: int = 0
    taken_back: int = 0
    name: str = ""
    max_up: int = 0
    max_down: int = 0


class Message(Protocol):
    """A message to all peers of a run: a record, or bytes that a method has packed more tightly. `kind` names its
    format, and `encoded` is msgpack of an array whose first item is the kind."""

    @property
    def kind(self) -> str: ...
    @property
    def encoded(self) -> bytes: ...


class Listener(Protocol):
    """What a method hears from its run. All functions are called on the network thread and must not block."""

    def heard(self, presence: Presence, news: bytes) -> None:
        """A peer has sent a heartbeat with this news."""

    def message(self, origin: PeerId, kind: str, data: bytes) -> None:
        """A peer has sent a message of a kind that is not a heartbeat."""

    def peers_changed(self, live: Mapping[PeerId, Presence]) -> None:
        """Another set of peers is alive now, or a peer has another phase."""

    def resumed(self) -> None:
        """This process was stopped for a while and goes on now."""


class Membership:
    """This peer's membership of a run."""

    def __init__(
        self,
        swarm: Swarm,
        run: Digest,
        describe: Callable[[], Vitals],
        news: Callable[[], bytes],
        acquaintances: Callable[[], Sequence[str]] = tuple,
        announcement: Announcement | None = None,
    ) -> None:
        """
        Args:
            describe: returns what this peer says about itself in its next heartbeat.
            news: returns the method's part of the next heartbeat.
            acquaintances: returns addresses of former peers of the run, to try while others are missing.
            announcement: the run's entry in the list of runs; None if the run is not listed.
        """
        self._swarm, self._door, self.run, self._announcement = swarm, swarm.door, run, announcement
        self._describe, self._news, self._acquaintances = describe, news, acquaintances
        self._topic = f"p2ptrain/{PROTOCOL}/{run.hex()}"
        self._table = PeerTable(monotonic())
        self._session = secrets.token_bytes(8)
        self._beat = 0
        self._addresses: tuple[str, ...] = ()
        self._announced: Phase | None = None
        self._double: Presence | None = None
        """The last record of this peer in the directory that this process has not written."""
        self._has_double = False
        self._is_due = asyncio.Event()
        """Set when the next announcement to the directory shall not wait."""
        self._unheard: dict[PeerId, float] = {}
        """Connected peers of the run that are not live, and since when."""
        self._limit = RateLimit(GOSSIP_RATE, GOSSIP_BURST)
        self._tasks: list[asyncio.Task[None]] = []
        self.live: Mapping[PeerId, Presence] = {}
        """The other peers that are alive, and the last presence of each."""
        self._phases: dict[PeerId, Phase] = {}
        self.listener: Listener | None = None
        self.dropped: Counter[str] = Counter()
        """How many messages were dropped, by reason."""

    async def start(self) -> None:
        """Begin to send heartbeats and to listen."""
        self._addresses = tuple(await self._swarm.node.addresses())
        self._door.publish_with(self._publish)
        works = [self._listen(), self._beat_regularly(), self._announce_regularly(), self._watch()]
        if self._swarm.config.searches_lan:
            works.append(self._meet_in_lan())
        if self._announcement is not None:
            works.append(self._list_regularly(self._announcement))
        self._tasks = [self._swarm.spawn(work) for work in works]

    async def close(self) -> None:
        """Tell the others that this peer leaves, and stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            presence = self.presence(leaving=True)
            await asyncio.wait_for(self._publish(Heartbeat(presence=presence, news=b"").encoded), 2.0)
            await asyncio.wait_for(self._swarm.directory.announce(presence), 2.0)

    def knows(self, author: PeerId) -> bool:
        """Whether the run may keep what `author` has signed. In a private run the author must be a member, or have been
        one."""
        return author == self._swarm.peer_id or self._door.knows(author)

    async def directory(self) -> dict[PeerId, Presence]:
        """The run's other peers, as the DHT knows them."""
        peers = await self._swarm.directory.peers(self.run)
        return {peer: presence for peer, presence in peers.items() if peer != self._swarm.peer_id}

    async def publish(self, record: Message) -> None:
        """Send a message to all peers of the run. It may get lost, so important things are repeated in the news."""
        try:
            await self._publish(record.encoded)
        except (OSError, ControlError, asyncio.IncompleteReadError) as error:
            log.warning("a %s could not be published: %s", record.kind, error)

    async def beat(self) -> None:
        """Send a heartbeat now."""
        presence = self.presence()
        if presence.phase != self._announced:
            self._is_due.set()
        await self.publish(Heartbeat(presence=presence, news=self._news(), papers=self._door.summary))

    def presence(self, leaving: bool = False) -> Presence:
        """What this peer says about itself now, signed; `leaving`: its last word."""
        self._beat += 1
        fields = asdict(self._describe()) | ({"phase": "leaving"} if leaving else {})
        return Presence(
            author=self._swarm.peer_id,
            run=self.run,
            session=self._session,
            beat=self._beat,
            version=version(),
            addresses=self._addresses[:8],
            reachability=self._swarm.reach.verdict,
            **fields,
        ).signed(self._swarm.key)

    # On the network thread -----------------------------------------------------------------------------------------

    async def _publish(self, message: bytes) -> None:
        data = self._door.seal(self._topic, message)
        if data is not None:
            await self._swarm.node.publish(self._topic, data)

    async def _beat_regularly(self) -> None:
        while True:
            await self.beat()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _announce_regularly(self) -> None:
        """Store the presence in the DHT again and again, and connect to peers that are found there. A new phase is
        stored at once, because observers see only the DHT."""
        while True:
            self._is_due.clear()
            try:
                self._addresses = tuple(await self._swarm.node.addresses())
                everyone = await self._swarm.directory.peers(self.run)
                self._look_for_a_double(everyone.pop(self._swarm.peer_id, None))
                presence = self.presence()
                self._announced = presence.phase
                if not await self._swarm.directory.announce(presence):
                    log.debug("no DHT node took this peer's record")
                await asyncio.gather(self._meet_neighbours(everyone), self._meet_acquaintances())
            except Exception as error:  # hivemind's DHT has no error type of its own, and training does not need it
                log.warning("the directory can't be used just now: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_due.wait(), ANNOUNCE_SECONDS if self.live else HEARTBEAT_SECONDS)

    def _look_for_a_double(self, found: Presence | None) -> None:
        """Warn if another process uses a copy of this peer's key. Such a process replaces this peer's record in the
        directory again and again; a record that an earlier start has left behind never changes."""
        if found is None or found.session == self._session or self._has_double:
            return
        before, self._double = self._double, found
        if before is not None and before.session == found.session and before.beat < found.beat:
            self._has_double = True
            log.warning(
                "another process takes part as this peer, %s, with a copy of its key file. Others can't tell the two "
                "apart. Stop one of them and start it again with a key of its own (--identity FILE)",
                self._swarm.peer_id,
            )

    async def _list_regularly(self, announcement: Announcement) -> None:
        """Keep the run in the list of runs. All its peers share this work: the more there are, the less each does."""
        await asyncio.sleep(2 * HEARTBEAT_SECONDS)  # until this peer has heard the others
        while True:
            if random.random() * (1 + len(self.live)) < LISTERS:
                try:
                    taken = await self._swarm.directory.announce_run(announcement)
                    log.debug("%d DHT nodes took the run's announcement", taken)
                except Exception as error:  # as above
                    log.info("the run could not be announced: %s", error)
            await asyncio.sleep(LIST_SECONDS)

    async def _meet_neighbours(self, found: Mapping[PeerId, Presence]) -> None:
        connected = await self._swarm.node.connected()
        for peer in self._to_reconnect(found, connected, monotonic()):
            log.info("%s is connected but sends no heartbeats: opening the connection anew", short_peer(peer))
            await self._swarm.node.disconnect(peer)
            connected.discard(peer)
        strangers = [presence for peer, presence in found.items() if peer not in connected]
        places = max(0, NEIGHBOURS - len(connected & set(found)))
        # All at the same time: some may be unreachable, and the next announcement must not wait for them.
        await asyncio.gather(*(self._meet(seen.author, seen.addresses) for seen in strangers[:places]))

    def _to_reconnect(
        self, found: Mapping[PeerId, Presence], connected: Collection[PeerId], now: float
    ) -> list[PeerId]:
        """Peers of the run that are connected but not heard. libp2p's gossip leaves a peer out for ever if it loses one
        of two connections at the wrong moment, e.g. when two peers dial each other at the same time.

        Both peers notice it. The one with the smaller id acts first, so that neither closes the other's new connection.
        """
        unheard = [
            peer
            for peer, seen in found.items()
            if peer in connected and peer not in self.live and seen.addresses and not self._door.refusal(peer)
        ]
        self._unheard = {peer: self._unheard.get(peer, now) for peer in unheard}
        me = self._swarm.peer_id
        overdue = [p for p, since in self._unheard.items() if now - since >= UNHEARD_SECONDS * (1 if me < p else 2)]
        for peer in overdue:
            del self._unheard[peer]
        return overdue

    async def _meet_acquaintances(self) -> None:
        """Try to connect to former peers that are missing: to all of them while nobody is there, otherwise to a few. A
        swarm can be split for longer than a record lives in the DHT. Its parts find each other in this way only."""
        known = by_peer(self._acquaintances())
        missed = list(known.keys() - self.live.keys() - {self._swarm.peer_id})
        if self.live:
            missed = random.sample(missed, min(ACQUAINTANCES, len(missed)))
        met = await asyncio.gather(*(self._meet(peer, known[peer]) for peer in missed))
        for peer, there in zip(missed, met, strict=True):
            if there:
                await self._swarm.directory.meet(peer)

    async def _meet_in_lan(self) -> None:
        """Announce this peer in the local network, and connect to peers that are found there."""
        from p2ptrain.swarm.lan import Lan  # a bootstrap node does not search and saves the memory

        try:
            async with Lan(self.run) as lan:
                await lan.advertise(self._swarm.peer_id, self._addresses)
                async for peer, addresses in lan.found():
                    if peer != self._swarm.peer_id and await self._meet(peer, addresses):
                        await self._swarm.directory.meet(peer)
        except NetworkError as error:
            log.info("%s", error.brief)

    async def _meet(self, peer: PeerId, addresses: Sequence[str]) -> bool:
        if not addresses:  # such a peer opens all its connections itself
            return False
        try:
            await self._swarm.node.connect(peer, addresses)
            await self._door.meet(peer)
        except (NetworkError, RpcError) as error:
            log.debug("%s", error)
            return False
        return True

    async def _listen(self) -> None:
        async for message in self._swarm.node.subscribe(self._topic):
            if message.origin != self._swarm.peer_id:
                self._hear(message)

    def _hear(self, message: Gossip) -> None:
        origin = message.origin
        if self._door.refusal(origin):
            self.dropped["not a member's"] += 1
            return
        if not self._limit.allows(origin):
            self.dropped["too many messages"] += 1
            return
        try:
            self._take(origin, self._door.unseal(self._topic, origin, message.data))
        except MalformedError as error:
            log.debug("dropped a message of %s: %s", origin, error)
            self.dropped["malformed"] += 1

    def _take(self, origin: PeerId, data: bytes) -> None:
        kind = kind_of(data)
        if kind in self._door.kinds:
            self._door.hear(data)
            return
        if kind != Heartbeat.kind:
            if self.listener is not None:
                self.listener.message(origin, kind, data)
            return
        heartbeat = Heartbeat.decode(data)
        presence = heartbeat.presence
        if presence.author != origin or presence.run != self.run:
            raise MalformedError("a heartbeat names another peer or run than its own")
        self._table.hear(presence, monotonic())
        self._swarm.node.book.learn(origin, presence.addresses)
        self._door.compare(origin, heartbeat.papers)
        if self.listener is not None:
            self.listener.heard(presence, heartbeat.news)
        self._look()

    async def _watch(self) -> None:
        while True:
            if self._table.look(monotonic()) and self.listener is not None:
                log.warning("this process was stopped for a while")
                self.listener.resumed()
            self._look()
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        live = self._table.live(monotonic()).items()
        self.live = {peer: seen for peer, seen in live if not self._door.refusal(peer)}
        before, self._phases = self._phases, {peer: seen.phase for peer, seen in self.live.items()}
        if self.listener is not None and before != self._phases:
            self.listener.peers_changed(self.live)
