"""How far this peer can be reached: others dial it back, and relays are kept at hand for whoever they can't reach.

A guess from addresses would be wrong behind every home router, so a peer asks those that it is connected to which of
its addresses answer from where they are. A peer that nobody has reached at a public address is also announced through
the bootstrap nodes that relay (`relay.py`); for that it has only to stay connected to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Annotated, ClassVar

from pydantic import Field

from p2ptrain.errors import NetworkError
from p2ptrain.run import PeerId, Record
from p2ptrain.run.record import Text
from p2ptrain.swarm.addresses import CIRCUIT, address_parts, by_peer, host_of, is_loopback, is_relayed
from p2ptrain.swarm.node import ControlError, Node, NodeConfig
from p2ptrain.swarm.presence import Reachability
from p2ptrain.swarm.rpc import Rpc, RpcError

METHOD = "reach"
MAX_PLACES = 8
KNOCK_SECONDS = 3.0
ANSWER_SECONDS = 6.0
LOOK_SECONDS = 5.0
AGAIN_SECONDS = 600.0
"""A verdict is asked for anew after so long, and when the relays have changed."""
ASKED_AT_ONCE = 3
MAX_RELAYS = 2
MAX_CANDIDATES = 8
_GREETING = b"\x13/multistream/1.0.0\n"
"""With which every libp2p node begins a connection."""

log = logging.getLogger(__name__)


class ReachRequest(Record):
    """Which of these places, all of them mine, answer from where you are?"""

    kind: ClassVar[str] = "reach-request/1"
    max_bytes: ClassVar[int] = 2048

    places: Annotated[tuple[Text, ...], Field(max_length=MAX_PLACES)]
    """Multiaddrs without a peer id."""


class ReachAnswer(Record):
    """Those that do, and whether the asked one is a relay."""

    kind: ClassVar[str] = "reach-answer/1"
    max_bytes: ClassVar[int] = 2048

    reached: Annotated[tuple[Text, ...], Field(max_length=MAX_PLACES)]
    relays: bool


class Reach:
    """Answers others' question, and asks it for this peer."""

    def __init__(self, node: Node, rpc: Rpc, config: NodeConfig) -> None:
        self._node, self._rpc, self._config = node, rpc, config
        self._bootstrap = {
            peer: [address for address in addresses if CIRCUIT not in address]
            for peer, addresses in by_peer(config.bootstrap).items()
        }
        self._asked_at = -AGAIN_SECONDS
        self._offering: set[PeerId] = set()
        """Relays that answered the last question."""
        self.verdict: Reachability = "loopback" if config.local else "unknown"

    async def serve(self) -> None:
        await self._rpc.serve(METHOD, ReachRequest, self._answer, versioned=False)

    async def keep(self) -> None:
        """For as long as the peer runs: stay connected to relays, and ask when there is something new to learn."""
        while not self._config.local:
            await asyncio.sleep(LOOK_SECONDS)
            with contextlib.suppress(OSError, ControlError, asyncio.IncompleteReadError):
                connected = await self._find_relays()
                lost = not self._node.relays.keys() <= connected
                new = bool(self._offering - self._node.relays.keys() & connected) and self.verdict != "public"
                stale = time.monotonic() - self._asked_at > AGAIN_SECONDS or (connected and self.verdict == "unknown")
                if lost or new or stale:
                    await self.ask()

    async def ask(self) -> None:
        """Have others dial back, and decide by what they say."""
        if self._config.local:
            return
        connected = await self._node.connected()
        candidates = [peer for peer in self._candidates() if peer in connected]
        others = [peer for peer in sorted(connected) if peer not in candidates]
        asked = [*candidates, *others[: max(0, ASKED_AT_ONCE - len(candidates))]]
        own = [address.partition("/p2p/")[0] for address in await self._node.addresses() if not is_relayed(address)]
        places = tuple(place for place in own if not is_loopback(place))[:MAX_PLACES]
        answers = await asyncio.gather(*(self._ask(peer, places) for peer in asked))
        given = {peer: answer for peer, answer in zip(asked, answers, strict=True) if answer is not None}
        self._offering = {peer for peer, answer in given.items() if answer.relays}
        reached = {place for answer in given.values() for place in answer.reached if place in places}
        self._asked_at = time.monotonic()
        self._decide(bool(given), reached)

    def _decide(self, answered: bool, reached: set[str]) -> None:
        public = any((host := host_of(place)) is not None and host.is_global for place in reached)
        where = {**self._node.book.relays(), **self._bootstrap}
        useful = [] if public or self._config.announce else sorted(self._offering & where.keys())
        self._node.relays = {peer: where[peer] for peer in useful[:MAX_RELAYS]}
        before = self.verdict
        if public:
            self.verdict = "public"
        elif reached:
            self.verdict = "private network"
        elif answered and not self._config.announce:  # where that is, the asked ones may not have looked
            self.verdict = "relayed" if self._node.relays else "outgoing only"
        else:
            self.verdict = "unknown"
        if self.verdict != before:
            log.info("reachable: %s", self.verdict)

    def _candidates(self) -> list[PeerId]:
        known = list(self._bootstrap)
        if not self._offering & self._bootstrap.keys():  # then those that others use
            known += self._node.book.relays()
        return [peer for peer in dict.fromkeys(known) if peer != self._node.peer_id][:MAX_CANDIDATES]

    async def _find_relays(self) -> set[PeerId]:
        """Connect to relays that have gone out of sight; returns who is connected."""
        connected = await self._node.connected()
        if self.verdict == "public":
            return connected
        where = {**self._node.book.relays(), **self._bootstrap}
        missed = [peer for peer in self._candidates() if peer not in connected and where[peer]]
        for peer in missed[:MAX_RELAYS]:
            with contextlib.suppress(NetworkError):
                await self._node.connect(peer, where[peer])
        return await self._node.connected() if missed else connected

    async def _ask(self, peer: PeerId, places: tuple[str, ...]) -> ReachAnswer | None:
        request = ReachRequest(places=places)
        try:
            return await self._rpc.call(peer, METHOD, request, ReachAnswer, ANSWER_SECONDS, versioned=False)
        except RpcError as error:
            log.debug("%s", error)
            return None

    async def _answer(self, peer: PeerId, request: ReachRequest) -> ReachAnswer:
        """Dial back, but only where the question came from: nobody is to knock at a third one's door for another."""
        hosts = await self._node.hosts_of(peer)
        if not self._config.local:
            hosts -= {"127.0.0.1"}  # from where tunnels seem to come: their peers are somewhere else
        places = [place for place in dict.fromkeys(request.places) if str(host_of(place)) in hosts]
        found = await asyncio.gather(*map(_answers, places))
        reached = tuple(place for place, there in zip(places, found, strict=True) if there)
        return ReachAnswer(reached=reached, relays=self._config.relay is not None)


async def _answers(place: str) -> bool:
    """Whether a libp2p node listens there."""
    parts = address_parts(place)
    if parts is None or parts[1] != "tcp":
        return False
    try:
        async with asyncio.timeout(KNOCK_SECONDS):
            reader, writer = await asyncio.open_connection(parts[0], parts[2], limit=1024)
            try:
                writer.write(_GREETING)
                return await reader.readexactly(len(_GREETING)) == _GREETING
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError):
        return False
