"""Relays, and the tunnels through them to peers that others can't reach directly.

    caller's p2pd ═ loopback ═ caller ── stream ── relay ── stream ── peer ═ loopback ═ peer's p2pd

A tunnel carries the bytes of one ordinary libp2p connection. It consists of two streams: from the caller to the relay,
and from the relay to the peer. The two p2pd at the ends make the handshake, so the relay sees only ciphertext and can
pretend to be neither of them. Gossip, calls and bulk data use the tunnel like any other connection, in both directions.

p2pd has a relay, too (circuit v2). We do not use it for two reasons. It ends a relayed connection after 128 KiB or two
minutes, whatever its flags say, because it starts a second service with the library's defaults. And gossip does not run
over such connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Protocol

from p2ptrain.errors import MalformedError, NetworkError
from p2ptrain.run import PeerId, Record, short_peer
from p2ptrain.run.record import Count, PeerIdField, Text
from p2ptrain.swarm.addresses import AddressBook
from p2ptrain.swarm.config import RelayLimits

RELAY, TUNNEL = "/p2ptrain/relay/1", "/p2ptrain/tunnel/1"
ANSWER_SECONDS = 10.0
PIECE = 64 * 1024
INCOMING = 64
"""Tunnels to this peer that may be open at the same time."""
RENEW_AT = 0.9
"""The part of a tunnel's limits after which the peer that opened it opens a new one."""
NOTICE_SECONDS = 4.0
"""The time that p2pd gets to notice that a connection is lost."""
WORTH_RENEWING = 5.0
"""Seconds. A tunnel that breaks sooner than this is not opened again at once."""

log = logging.getLogger(__name__)
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
StreamHandler = Callable[[PeerId, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Streams(Protocol):
    """What relays and tunnels need of the node that they belong to. It is a `Node`, which says what each of these does;
    `open_stream` raises RuntimeError if there is no stream."""

    sent: Counter[str]
    relays: dict[PeerId, list[str]]
    book: AddressBook

    async def own_place(self) -> tuple[str, int]: ...
    async def connected(self) -> set[PeerId]: ...
    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None: ...
    def open_stream(self, peer: PeerId, protocol: str) -> AbstractAsyncContextManager[Stream]: ...


class RelayRequest(Record):
    """The caller asks the relay: lead me to this peer."""

    kind: ClassVar[str] = "relay-request/1"
    max_bytes: ClassVar[int] = 256

    to: PeerIdField


class RelayAnswer(Record):
    """The relay answers. Without a refusal, the stream is the tunnel from here on."""

    kind: ClassVar[str] = "relay-answer/1"
    max_bytes: ClassVar[int] = 512

    refusal: Text
    """Why there is no tunnel; empty if there is one."""
    seconds: Count
    bytes: Count


class Relay:
    """The relay's side: leads callers to peers that are connected here."""

    def __init__(self, streams: Streams, limits: RelayLimits) -> None:
        self._streams, self._limits = streams, limits
        self._open: Counter[PeerId] = Counter()
        self.tunnels = 0
        """Tunnels that are open now."""

    async def serve(self, caller: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the caller's `RELAY` stream, and carries the tunnel for as long as it lasts."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                request = RelayRequest.decode(await _receive(reader, RelayRequest.max_bytes))
        except (MalformedError, TimeoutError) as error:
            log.debug("no tunnel, the request is unusable: %s", error)
            return
        peer = request.to
        refusal = await self._refusal(caller, peer)
        if refusal:
            await _send(writer, RelayAnswer(refusal=refusal, seconds=0, bytes=0))
            return
        self.tunnels += 1
        self._open.update((caller, peer))
        try:
            await self._lead(peer, (reader, writer))
        finally:
            self.tunnels -= 1
            self._open -= Counter((caller, peer))

    async def _refusal(self, caller: PeerId, peer: PeerId) -> str:
        if caller == peer or peer not in await self._streams.connected():
            return "that peer is not connected here"
        if self.tunnels >= self._limits.tunnels:
            return "the relay is full"
        if max(self._open[caller], self._open[peer]) >= self._limits.per_peer:
            return "too many tunnels of one peer"
        return ""

    async def _lead(self, peer: PeerId, near: Stream) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS) as waiting, self._streams.open_stream(peer, TUNNEL) as far:
                limits = self._limits
                await _send(near[1], RelayAnswer(refusal="", seconds=limits.seconds, bytes=limits.bytes))
                waiting.reschedule(None)
                self._streams.sent["relay"] += await carry(near, far, limits.seconds, limits.bytes)
        except (RuntimeError, TimeoutError) as error:  # ControlError is a RuntimeError
            refusal = f"that peer does not take the tunnel: {error}"[:200]
            await _send(near[1], RelayAnswer(refusal=refusal, seconds=0, bytes=0))


class Tunnels:
    """The two ends of tunnels: those that this peer opens, and those that relays open to it."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._arrived = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def open(self, relay: PeerId, peer: PeerId) -> str:
        """Open a tunnel to `peer`; returns the loopback multiaddr at which p2pd can dial it, once and within seconds.
        Raises NetworkError if the relay does not lead to that peer."""
        place: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._keep(relay, peer, place))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await place

    async def _keep(self, relay: PeerId, peer: PeerId, place: asyncio.Future[str]) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS) as waiting, self._streams.open_stream(relay, RELAY) as far:
                await _send(far[1], RelayRequest(to=peer))
                limits = RelayAnswer.decode(await _receive(far[0], RelayAnswer.max_bytes))
                if limits.refusal:
                    raise NetworkError(f"the relay {short_peer(relay)} does not lead to that peer", limits.refusal)
                async with _one_visitor(place) as near:
                    waiting.reschedule(None)
                    await carry(near, far, limits.seconds * RENEW_AT, int(limits.bytes * RENEW_AT))
        except (OSError, asyncio.IncompleteReadError, RuntimeError, MalformedError, NetworkError) as error:
            why = error if isinstance(error, NetworkError) else NetworkError("no tunnel", str(error) or "no answer")
            if not place.done():
                place.set_exception(why)
        finally:
            place.cancel()  # if it has no result yet, it will never get one
        if time.monotonic() - began > WORTH_RENEWING and await self._is_gone(peer):
            log.info("the tunnel to %s through %s has ended; opening another", short_peer(peer), short_peer(relay))
            with contextlib.suppress(NetworkError, KeyError):  # KeyError: it needs no relay any more
                await self._streams.connect(peer, self._streams.book[peer])

    async def _is_gone(self, peer: PeerId) -> bool:
        """Whether p2pd has no connection with the peer any more. p2pd needs a moment to notice that one is lost."""
        deadline = time.monotonic() + NOTICE_SECONDS
        while peer in await self._streams.connected():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(NOTICE_SECONDS / 20)
        return True

    async def arrive(self, relay: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Leads a relay's `TUNNEL` stream to this peer's own p2pd."""
        if not self._is_from_relay(relay) or self._arrived >= INCOMING:
            return
        self._arrived += 1
        try:
            own = await asyncio.open_connection(*await self._streams.own_place(), limit=PIECE)
            try:
                await carry((reader, writer), own)
            finally:
                own[1].close()
        finally:
            self._arrived -= 1

    def _is_from_relay(self, peer: PeerId) -> bool:
        """Whether this peer has chosen that one as its relay."""
        return peer in self._streams.relays


@contextlib.asynccontextmanager
async def _one_visitor(place: asyncio.Future[str]) -> AsyncIterator[Stream]:
    """Listen on loopback for one connection, that of p2pd; `place` gets the address."""
    visitor: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if visitor.done():
            writer.close()
        else:
            visitor.set_result((reader, writer))

    server = await asyncio.start_server(take, "127.0.0.1", 0, limit=PIECE)
    try:
        if not place.done():
            place.set_result(f"/ip4/127.0.0.1/tcp/{server.sockets[0].getsockname()[1]}")
        reader, writer = await visitor
        server.close()
        try:
            yield reader, writer
        finally:
            writer.close()
    finally:
        server.close()


async def carry(one: Stream, other: Stream, seconds: float | None = None, limit: int | None = None) -> int:
    """Copy bytes between two streams, both ways, until one ends or a limit is reached: `seconds`, or `limit` bytes of
    both directions together. Returns how many bytes were copied."""
    carried = 0

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal carried
        with contextlib.suppress(OSError):
            while (limit is None or carried < limit) and (data := await reader.read(PIECE)):
                carried += len(data)
                writer.write(data)
                await writer.drain()

    ways = [asyncio.create_task(pass_on(one[0], other[1])), asyncio.create_task(pass_on(other[0], one[1]))]
    try:
        await asyncio.wait(ways, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    return carried


async def _send(writer: asyncio.StreamWriter, record: Record) -> None:
    writer.write(len(record.encoded).to_bytes(2, "big") + record.encoded)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader, limit: int) -> bytes:
    length = int.from_bytes(await reader.readexactly(2), "big")
    if length > limit:
        raise MalformedError("a message to or from a relay is too long", f"{length} bytes, at most {limit}")
    return await reader.readexactly(length)
