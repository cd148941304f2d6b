"""What a peer does so that another one knows itself: it dials back, and moves a few megabytes for `doctor` to measure.

In a public run anyone may ask, so none of it may be of use against anybody else. A dial-back names ports and no
address: what is dialled is the IP that the caller's own connection comes from. The caller learns which of its ports
have proven to be itself (`knock`), and of the others nothing. What is sent for measuring goes to the caller over the
connection that it opened. All of it is bounded, for each place on the network and for all callers together, since peer
ids cost nothing.
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
"""Codes of binary multiaddrs."""


def is_dialled(port: int) -> bool:
    return port == 443 or LOWEST_PORT <= port < 2**16


def _check_port(port: int) -> int:
    if not is_dialled(port):
        raise ValueError(f"only port 443 and those from {LOWEST_PORT} on are dialled")
    return port


def _check_ip(text: str) -> str:
    if str(ipaddress.ip_address(text)) != text:
        raise ValueError("not an IP address as it is usually written")
    return text


Port = Annotated[int, AfterValidator(_check_port)]
"""Well-known services listen below: a stranger who makes peers knock there would make them look like intruders."""
Ip = Annotated[Text, AfterValidator(_check_ip)]


class DialBack(Record):
    """Please dial me at these TCP ports, at the IP that you see me come from; none: tell me the rest."""

    kind: ClassVar[str] = "dial-back/1"
    max_bytes: ClassVar[int] = 64

    ports: Annotated[tuple[Port, ...], Field(max_length=PORTS_PER_CALL)]


class DialBackAnswer(Record):
    """Where you come from, at which of your ports you have answered as yourself, and whether I relay to others."""

    kind: ClassVar[str] = "dial-back-answer/1"
    max_bytes: ClassVar[int] = 256

    seen: Ip
    reached: Annotated[tuple[Port, ...], Field(max_length=PORTS_PER_CALL)]
    relays: bool


class SendMe(Record):
    """Please send me so many bytes: I measure how fast they come."""

    kind: ClassVar[str] = "send-me/1"
    max_bytes: ClassVar[int] = 64

    size: Annotated[int, Field(ge=1, le=DOWN_BYTES)]


class TakeThis(Record):
    """Please take these bytes: I measure how fast they go."""

    kind: ClassVar[str] = "take-this/1"
    max_bytes: ClassVar[int] = UP_BYTES + 64

    data: Annotated[bytes, Field(max_length=UP_BYTES)]


class Taken(Record):
    """So many bytes have come."""

    kind: ClassVar[str] = "taken/1"
    max_bytes: ClassVar[int] = 64

    size: Count


class Quota:
    """Lets callers through: so often from one place, so often in all, and so many at once."""

    def __init__(self, each: RateLimit, total: RateLimit, at_once: int) -> None:
        self._each, self._total, self._free = each, total, at_once

    @contextlib.contextmanager
    def passing(self, ip: str, now: float | None = None) -> Iterator[None]:
        """Raises Refused if it is too much. Who is stopped at the first bound uses nothing of the second."""
        if not self._free:
            raise Refused("busy with others, try again in a few seconds")
        if not self._each.allows(_place(ip), now) or not self._total.allows("", now):
            raise Refused("asked too often, try again in a minute")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def _at_once(_count: int) -> None:
    """No limit on the bytes sent."""


class Probes:
    """Serves the three calls."""

    def __init__(self, node: Node, config: NodeConfig) -> None:
        self._node, self._config = node, config
        self._dial_quota = Quota(RateLimit(1 / 10, 8), RateLimit(10, 60), at_once=16)  # every newcomer asks once
        self._down_quota = Quota(RateLimit(1 / 60, 2), RateLimit(1 / 60, 4), at_once=1)  # in the long run 70 kB/s
        self._up_quota = Quota(RateLimit(1 / 30, 3), RateLimit(1 / 5, 6), at_once=2)
        self.pace: Callable[[int], Awaitable[None]] = _at_once
        """Waits until so many bytes may be sent: the volunteer's limit, where there is one."""

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
            noise = memoryview(os.urandom(FRAME_BYTES))  # a link that compresses gains nothing
            for start in range(0, request.size, FRAME_BYTES):
                part = noise[: min(FRAME_BYTES, request.size - start)]
                await self.pace(len(part))
                yield part

    async def _take(self, peer: PeerId, request: TakeThis) -> Taken:
        with self._up_quota.passing(await self._ip_of(peer)):
            return Taken(size=len(request.data))

    async def _ip_of(self, peer: PeerId) -> str:
        """Where the peer's own connection comes from; one through a tunnel seems to come from this machine."""
        for address in await self._node.remote_addresses(peer):
            ip = direct_ip(address)
            if ip is not None and (self._config.local or not ipaddress.ip_address(ip).is_loopback):
                return ip
        raise Refused("you are connected through a relay, so your own address is not seen here")


# Asking --------------------------------------------------------------------------------------------------------------


async def ask_to_dial_back(rpc: Rpc, peer: PeerId, ports: tuple[int, ...]) -> DialBackAnswer:
    """Have a peer dial this one at up to four ports; those that nobody dials are left out.

    Raises:
        RpcError: it did not, or answers what was not asked.
    """
    ports = tuple(port for port in dict.fromkeys(ports) if is_dialled(port))[:PORTS_PER_CALL]
    request = DialBack(ports=ports)  # of a relay, too, which belongs to no run
    answer = await rpc.call(peer, DIAL_BACK, request, DialBackAnswer, 2 * KNOCK_SECONDS, of_member=False)
    if not set(answer.reached) <= set(ports):
        raise RpcError(peer, DIAL_BACK, "malformed", "it tells of other ports than those that were asked for")
    return answer


async def measure_down(rpc: Rpc, peer: PeerId, seconds: float = MEASURING_SECONDS) -> float:
    """Bytes per second from a peer, over 4 MiB or so many seconds, whichever comes first.

    Raises:
        RpcError: it sends none, or what was not asked for.
    """
    came, began, first, last = 0, time.monotonic(), 0, 0.0
    async with contextlib.aclosing(rpc.stream(peer, PROBE_DOWN, SendMe(size=DOWN_BYTES), FRAME_BYTES)) as frames:
        async for frame in frames:
            last = time.monotonic()
            if not first:  # how long it took to begin is latency
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
    """Bytes per second to a peer, over 512 KiB; up to `round_trip` seconds of the time are latency.

    Raises:
        RpcError: it does not take them.
    """
    request = TakeThis(data=os.urandom(UP_BYTES))
    began = time.monotonic()
    taken = await rpc.call(peer, PROBE_UP, request, Taken)
    if taken.size != UP_BYTES:
        raise RpcError(peer, PROBE_UP, "malformed", "it has taken another number of bytes than were sent")
    took = time.monotonic() - began
    return UP_BYTES / max(took - min(round_trip, took / 2), 1e-6)


def direct_ip(address: bytes) -> str | None:
    """The IP of a binary multiaddr that is /ip4 or /ip6, /tcp and nothing more: after a relay's own, more follows."""
    for code, size in ((_IP4, 4), (_IP6, 16)):
        if address[:1] == code and address[1 + size : 2 + size] == _TCP and len(address) == 4 + size:
            return str(ipaddress.ip_address(address[1 : 1 + size]))
    return None


def _place(ip: str) -> str:
    """What counts as one place: an IPv4 address, or the network of an IPv6 one, which a single home has whole."""
    address = ipaddress.ip_address(ip)
    return ip if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
