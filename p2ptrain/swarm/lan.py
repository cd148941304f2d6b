"""Peers of one run in one local network find each other by multicast DNS, without any bootstrap node.

A peer advertises its id, its port and a hash of the run id; the hash does not reveal the id. Nothing that is heard here
is trusted: this peer only dials addresses of the local network, and the peer that answers has to prove its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Self

from blake3 import blake3
from zeroconf import IPVersion, ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from p2ptrain.errors import NetworkError
from p2ptrain.run import Digest, PeerId
from p2ptrain.run.keys import check_peer_id
from p2ptrain.swarm.addresses import address_parts, host_of
from p2ptrain.text import first_line

SERVICE = "_p2ptrain._tcp.local."
MAX_WAITING = 32
"""Advertisements that may wait to be read; more are dropped."""
MAX_HOSTS = 4
ASK_MILLISECONDS = 3000
FIND_SECONDS = 4.0
LINGER_SECONDS = 0.5
"""How long `find` waits for more peers after the first one."""

log = logging.getLogger(__name__)


class Lan:
    """Finds peers in the local network, on the event loop that enters this context. Each method raises NetworkError if
    this machine has no local network to ask in."""

    def __init__(self, run: Digest) -> None:
        self._run = blake3(b"p2ptrain lan " + run).digest(16)
        self._heard: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._dns: AsyncZeroconf
        self._browser: AsyncServiceBrowser

    async def __aenter__(self) -> Self:
        with _explained():
            self._dns = AsyncZeroconf(ip_version=IPVersion.V4Only)
            self._browser = AsyncServiceBrowser(self._dns.zeroconf, SERVICE, handlers=[self._hear])
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # of zeroconf, while the network goes away
            await self._browser.async_cancel()
        with contextlib.suppress(Exception):
            await self._dns.async_close()  # says goodbye

    async def advertise(self, peer: PeerId, addresses: Iterable[str]) -> None:
        """Announce until this context ends that `peer` listens at these addresses; only the local ones are told."""
        places = [parts for address in addresses if is_local(address) and (parts := address_parts(address))]
        ports = [port for _, transport, port in places if transport == "tcp"]
        if not ports:
            return
        service = ServiceInfo(
            SERVICE,
            f"{peer}.{SERVICE}",
            port=ports[0],
            properties={"run": self._run, "peer": peer},
            server=f"{peer}.local.",
            parsed_addresses=[host for host, _, port in places if port == ports[0]][:MAX_HOSTS],
        )
        with _explained():
            await (await self._dns.async_register_service(service))

    async def found(self) -> AsyncIterator[tuple[PeerId, list[str]]]:
        """Yields each peer of the run that is heard and its addresses, for as long as the caller asks."""
        while True:
            info = AsyncServiceInfo(SERVICE, await self._heard.get())
            with _explained():
                has_answered = await info.async_request(self._dns.zeroconf, ASK_MILLISECONDS)
            if has_answered and (peer := self._peer_of(info)):
                hosts = info.parsed_addresses(IPVersion.V4Only)[:MAX_HOSTS]
                addresses = [f"/ip4/{host}/tcp/{info.port}/p2p/{peer}" for host in hosts]
                if usable := [address for address in addresses if is_local(address)]:
                    yield peer, usable

    def _hear(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is not ServiceStateChange.Removed and not self._heard.full():
            self._heard.put_nowait(name)

    def _peer_of(self, info: ServiceInfo) -> PeerId | None:
        """The peer that advertises this run; None if the advertisement is for another run or malformed."""
        if info.properties.get(b"run") != self._run:
            return None
        try:
            return check_peer_id((info.properties.get(b"peer") or b"").decode())
        except ValueError:
            return None


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what zeroconf and the system raise into a NetworkError; without network interfaces it is a RuntimeError."""
    try:
        yield
    except Exception as error:
        raise NetworkError("the local network can't be searched", first_line(error)) from None


def find(run: Digest) -> tuple[str, ...]:
    """Addresses of the run's peers in the local network. Blocks for 4 s at most; returns () if there are none."""
    return asyncio.run(_find(run))


async def _find(run: Digest) -> tuple[str, ...]:
    addresses: list[str] = []
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIND_SECONDS) as patience, Lan(run) as lan:
                async for _, places in lan.found():
                    if not addresses:
                        patience.reschedule(asyncio.get_running_loop().time() + LINGER_SECONDS)
                    addresses += places
    except NetworkError as error:
        log.info("%s", error.brief)
    return tuple(addresses)


def is_local(address: str) -> bool:
    """Whether this is an IPv4 address of a local network. Others are refused: nobody in the network shall be able to
    make peers dial machines outside of it."""
    host = host_of(address)
    return isinstance(host, ipaddress.IPv4Address) and host.is_private and not (host.is_loopback or host.is_unspecified)
