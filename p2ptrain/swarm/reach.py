"""Finds out how others can reach this peer: they dial it back. If they can't reach it, it stays connected to relays.

A guess from the addresses would be wrong behind every home router. So a peer asks the peers that it is connected to at
which of its addresses it answers. A peer that nobody has reached at a public address is announced with relayed
addresses, too (`relay.py`). For that it only has to stay connected to bootstrap nodes that are relays.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time

from p2ptrain.errors import NetworkError
from p2ptrain.run import PeerId
from p2ptrain.swarm.addresses import CIRCUIT, address_parts, by_peer, is_loopback, is_relayed
from p2ptrain.swarm.config import NodeConfig
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.node import ControlError, Node
from p2ptrain.swarm.patience import ask_all
from p2ptrain.swarm.presence import Reachability
from p2ptrain.swarm.probe import DialBackAnswer, ask_to_dial_back
from p2ptrain.swarm.rpc import IDLE_TIMEOUT, Rpc, RpcError

LOOK_SECONDS = 5.0
AGAIN_SECONDS = 600.0
"""Seconds after which others are asked again. They are also asked when the relays have changed."""
DIAL_BACK_GRACE = 10.0
"""Seconds that the others still get to dial back after one peer has answered."""
ASKED_AT_ONCE = 3
MAX_RELAYS = 2
MAX_CANDIDATES = 8

log = logging.getLogger(__name__)


class Reach:
    """How others can reach this peer, by what they have found."""

    def __init__(self, node: Node, rpc: Rpc, config: NodeConfig, door: Door) -> None:
        self._node, self._rpc, self._config, self._door = node, rpc, config, door
        self._bootstrap = {
            peer: [address for address in addresses if CIRCUIT not in address]
            for peer, addresses in by_peer(config.bootstrap).items()
        }
        self._asked_at = -AGAIN_SECONDS
        self._offering: set[PeerId] = set()
        """The relays among the peers that have answered the last time."""
        self.verdict: Reachability = "loopback" if config.local else "unknown"

    async def keep(self) -> None:
        """Runs for as long as the peer does: stays connected to relays, and asks again when something has changed."""
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
        """Ask others to dial back, and set `verdict` by their answers."""
        if self._config.local:
            return
        connected = await self._node.connected()
        candidates = [peer for peer in self._candidates() if peer in connected]
        others = [peer for peer in sorted(connected) if peer not in candidates and not self._door.refusal(peer)]
        asked = [*candidates, *others[: max(0, ASKED_AT_ONCE - len(candidates))]]
        own = [address for address in await self._node.addresses() if not (is_relayed(address) or is_loopback(address))]
        places = [parts for address in own if (parts := address_parts(address)) and parts[1] == "tcp"]
        ports = tuple(port for _, _, port in places)
        answers = await ask_all({peer: self._ask(peer, ports) for peer in asked}, 2 * IDLE_TIMEOUT, DIAL_BACK_GRACE)
        given = {peer: answer for peer, answer in answers.items() if isinstance(answer, DialBackAnswer)}
        self._offering = {peer for peer, answer in given.items() if answer.relays}
        reached = {answer.seen for answer in given.values() if answer.reached}
        self._asked_at = time.monotonic()
        self._decide(bool(given), reached)

    def _decide(self, answered: bool, reached: set[str]) -> None:
        """Set `verdict`. `answered`: whether anybody has answered. `reached`: the IPs at which others reached this
        peer."""
        public = any(ipaddress.ip_address(ip).is_global for ip in reached)
        where = {**self._node.book.relays(), **self._bootstrap}
        useful = [] if public or self._config.announce else sorted(self._offering & where.keys())
        self._node.relays = {peer: where[peer] for peer in useful[:MAX_RELAYS]}
        before = self.verdict
        if public:
            self.verdict = "public"
        elif reached:
            self.verdict = "private network"
        elif answered and not self._config.announce:  # others may not have dialled the announced address
            self.verdict = "relayed" if self._node.relays else "outgoing only"
        else:
            self.verdict = "unknown"
        if self.verdict != before:
            log.info("reachable: %s", self.verdict)

    def _candidates(self) -> list[PeerId]:
        known = list(self._bootstrap)
        if not self._offering & self._bootstrap.keys():  # then also the relays that other peers use
            known += self._node.book.relays()
        return [peer for peer in dict.fromkeys(known) if peer != self._node.peer_id][:MAX_CANDIDATES]

    async def _find_relays(self) -> set[PeerId]:
        """Connect again to relays whose connection is lost; returns all peers that are connected."""
        connected = await self._node.connected()
        if self.verdict == "public":
            return connected
        where = {**self._node.book.relays(), **self._bootstrap}
        missed = [peer for peer in self._candidates() if peer not in connected and where[peer]]
        for peer in missed[:MAX_RELAYS]:
            with contextlib.suppress(NetworkError):
                await self._node.connect(peer, where[peer])
        return await self._node.connected() if missed else connected

    async def _ask(self, peer: PeerId, ports: tuple[int, ...]) -> DialBackAnswer | None:
        for wanted in (ports, ()):  # a peer that does not dial back may still be a relay
            try:
                return await ask_to_dial_back(self._rpc, peer, wanted)
            except RpcError as error:
                log.debug("%s", error)
                if error.reason != "refused":
                    return None
        return None
