"""Three calls by which a peer learns about its own connection: others dial it back, send it bytes, and take bytes.

In a public run anybody may make these calls, so nobody must be able to use them against somebody else. A dial-back
names ports only; the IP that is dialled is the one that the caller's own connection comes from. The caller learns at
which of these ports it has proven to be itself (`knock`), and nothing about the other ports. Bytes for measuring go to
the caller only, over the connection that it has opened. Peer ids cost nothing, so the limits hold for each place on the
network and for all callers together.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from p2ptrain.run import PeerId, Record
from p2ptrain.run.digest import Buffer
from p2ptrain.run.record import Count, Text
from p2ptrain.swarm.config import NodeConfig
from p2ptrain.swarm.knock import answers
from p2ptrain.swarm.node import Node
from p2ptrain.swarm.rpc import RateLimit, Refused, Rpc, RpcError

DIAL_BACK, PROBE_DOWN, PROBE_UP = "dial-back", "probe-down", "probe-up"
PORTS_PER_CALL = 4
LOWEST_PORT = 1024
KNOCK_SECONDS = 4.0
NOT_ASKED = "0.0.0.0"
DOWN_BYTES = 4 * 1024 * 1024
UP_BYTES = 512 * 1024
FRAME_BYTES = 64 * 1024
MEASURING_SECONDS = 4.0

_IP4, _IP6, _TCP = b"\x04", b"\x29", b"\x06"
"""Protocol codes in binary multiaddrs."""


def is_dialled(port: int) -> bool:
    """Whether peers dial this TCP port for others."""
    return port == 443 or LOWEST_PORT <= port < 2**16


def _check_port(port: int) -> int:
    if not is_dialled(port):
        raise ValueError(f"only port 443 and ports from {LOWEST_PORT} on are dialled")
    return port


def _check_ip(text: str) -> str:
    if str(ipaddress.ip_address(text)) != text:
        raise ValueError("not an IP address in its usual form")
    return text


Port = Annotated[int, AfterValidator(_check_port)]
"""A port that peers dial for others. Well-known services listen at lower ports; a stranger could make peers knock
there, and they would look like intruders."""
Ip = Annotated[Text, AfterValidator(_check_ip)]


class DialBack(Record):
    """The caller asks to be dialled at these TCP ports, at the IP that its connection comes from. Without ports it asks
    only for the rest of the answer."""

    kind: ClassVar[str] = "dial-back/1"
    max_bytes: ClassVar[int] = 64

    ports: Annotated[tuple[Port, ...], Field(max_length=PORTS_PER_CALL)]


class DialBackAnswer(Record):
    """The caller's IP, the ports at which the caller has answered and proven to be itself, and whether the answering
    peer is a relay."""

    kind: ClassVar[str] = "dial-back-answer/1"
    max_bytes: ClassVar[int] = 256

    seen: Ip
    reached: Annotated[tuple[Port, ...], Field(max_length=PORTS_PER_CALL)]
    relays: bool


class SendMe(Record):
    """The caller asks for `size` bytes and measures how fast they come."""

    kind: ClassVar[str] = "send-me/1"
    max_bytes: ClassVar[int] = 64

    size: Annotated[int, Field(ge=1, le=DOWN_BYTES)]


class TakeThis(Record):
    """The caller sends bytes and measures how fast they go."""

    kind: ClassVar[str] = "take-this/1"
    max_bytes: ClassVar[int] = UP_BYTES + 64

    data: Annotated[bytes, Field(max_length=UP_BYTES)]


class Taken(Record):
    """`size` bytes have arrived."""

    kind: ClassVar[str] = "taken/1"
    max_bytes: ClassVar[int] = 64

    size: Count


class Quota:
    """Limits calls: how often from one place, how often from all places, and how many at once."""

    def __init__(self, each: RateLimit, total: RateLimit, at_once: int) -> None:
        self._each, self._total, self._free = each, total, at_once

    @contextlib.contextmanager
    def passing(self, ip: str, now: float | None = None) -> Iterator[None]:
        """One call from `ip`; raises Refused if it is too much. A call that one place's limit stops does not count for
        the limit of all. `now`: monotonic seconds."""
        if not self._free:
            raise Refused("busy with others, try again in a few seconds")
        if not self._each.allows(_place(ip), now) or not self._total.allows("", now):
            raise Refused("asked too often, try again in a minute")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class Probes:
    """Answers the three calls."""

    def __init__(self, node: Node, config: NodeConfig) -> None:
        self._node, self._config = node, config
        self._dial_quota = Quota(RateLimit(1 / 10, 8), RateLimit(10, 60), at_once=16)  # every newcomer asks once
        self._down_quota = Quota(RateLimit(1 / 60, 2), RateLimit(1 / 60, 4), at_once=1)  # 70 kB/s in the long run
        self._up_quota = Quota(RateLimit(1 / 30, 3), RateLimit(1 / 5, 6), at_once=2)
        self.pace: Callable[[int], Awaitable[None]] | None = None
        """Waits until this many bytes may be sent, by the volunteer's limit for sending; None if there is no limit."""

    async def serve(self, rpc: Rpc) -> None:
        await rpc.serve(DIAL_BACK, DialBack, self._dial_back)
        await rpc.serve_stream(PROBE_DOWN, SendMe, self._send)
        await rpc.serve(PROBE_UP, TakeThis, self._take)

    async def _dial_back(self, peer: PeerId, request: DialBack) -> DialBackAnswer:
        if not request.ports:
            return DialBackAnswer(seen=NOT_ASKED, reached=(), relays=self._config.relay is not None)
        ip = await self._ip_of(peer)
        with self._dial_quota.passing(ip):
            ports = sorted(set(request.ports))
            found = await asyncio.gather(*(answers(ip, port, peer, KNOCK_SECONDS) for port in ports))
        reached = tuple(port for port, there in zip(ports, found, strict=True) if there)
        return DialBackAnswer(seen=ip, reached=reached, relays=self._config.relay is not None)

    async def _send(self, peer: PeerId, request: SendMe) -> AsyncGenerator[Buffer, None]:
        with self._down_quota.passing(await self._ip_of(peer)):
            noise = memoryview(os.urandom(FRAME_BYTES))  # random bytes, so that a link that compresses gains nothing
            for start in range(0, request.size, FRAME_BYTES):
                part = noise[: min(FRAME_BYTES, request.size - start)]
                if self.pace is not None:
                    await self.pace(len(part))
                yield part

    async def _take(self, peer: PeerId, request: TakeThis) -> Taken:
        with self._up_quota.passing(await self._ip_of(peer)):
            return Taken(size=len(request.data))

    async def _ip_of(self, peer: PeerId) -> str:
        """The IP that the peer's own connection comes from. A connection through a tunnel seems to come from this
        machine, and does not count."""
        for other, address in await self._node.connections():
            ip = direct_ip(address) if other == peer else None
            if ip is not None and (self._config.local or not ipaddress.ip_address(ip).is_loopback):
                return ip
        raise Refused("you are connected through a relay, so this peer can't see your own address")


# Asking --------------------------------------------------------------------------------------------------------------


async def ask_to_dial_back(rpc: Rpc, peer: PeerId, ports: tuple[int, ...]) -> DialBackAnswer:
    """Ask a peer to dial this one at up to four ports. Ports that no peer dials for others are left out. Raises
    RpcError if the peer does not do it, or its answer names ports that were not asked for."""
    ports = tuple(port for port in dict.fromkeys(ports) if is_dialled(port))[:PORTS_PER_CALL]
    request = DialBack(ports=ports)  # `of_member=False` below: a relay belongs to no run
    answer = await rpc.call(peer, DIAL_BACK, request, DialBackAnswer, 2 * KNOCK_SECONDS, of_member=False)
    if not set(answer.reached) <= set(ports):
        raise RpcError(peer, DIAL_BACK, "malformed", "its answer names other ports than those it was asked for")
    return answer


async def measure_down(rpc: Rpc, peer: PeerId, seconds: float = MEASURING_SECONDS) -> float:
    """Bytes per second from a peer, measured over 4 MiB or `seconds`, whichever ends first. Raises RpcError if the peer
    sends nothing, or more than it was asked for."""
    came, began, first, last = 0, time.monotonic(), 0, 0.0
    async with contextlib.aclosing(rpc.stream(peer, PROBE_DOWN, SendMe(size=DOWN_BYTES), FRAME_BYTES)) as frames:
        async for frame in frames:
            last = time.monotonic()
            if not first:  # the time until the first bytes is latency
                first, began = len(frame), last
            came += len(frame)
            if last - began > seconds:
                break
            if came > DOWN_BYTES:
                raise RpcError(peer, PROBE_DOWN, "malformed", "it sends more than was asked for")
    if came <= first:
        raise RpcError(peer, PROBE_DOWN, "broken off", "too few bytes to measure")
    return (came - first) / max(last - began, 1e-6)


async def measure_up(rpc: Rpc, peer: PeerId, round_trip: float) -> float:
    """Bytes per second to a peer, measured over 512 KiB. `round_trip` is the latency in seconds, which does not count.
    Raises RpcError if the peer does not take them."""
    request = TakeThis(data=os.urandom(UP_BYTES))
    began = time.monotonic()
    taken = await rpc.call(peer, PROBE_UP, request, Taken)
    if taken.size != UP_BYTES:
        raise RpcError(peer, PROBE_UP, "malformed", "it says that another number of bytes has arrived")
    took = time.monotonic() - began
    return UP_BYTES / max(took - min(round_trip, took / 2), 1e-6)


def direct_ip(address: bytes) -> str | None:
    """The IP of a binary multiaddr of the form /ip4 or /ip6, then /tcp, and nothing after; otherwise None. A relayed
    address has more after the relay's own."""
    for code, size in ((_IP4, 4), (_IP6, 16)):
        if address[:1] == code and address[1 + size : 2 + size] == _TCP and len(address) == 4 + size:
            return str(ipaddress.ip_address(address[1 : 1 + size]))
    return None


def _place(ip: str) -> str:
    """What counts as one place: an IPv4 address, or an IPv6 network (/64), since one home has a whole network."""
    address = ipaddress.ip_address(ip)
    return ip if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
