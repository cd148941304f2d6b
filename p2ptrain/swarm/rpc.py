"""Typed calls between peers: one libp2p stream per call, one record as the request, frames as the answer.

    request   u32 length ‖ record
    answer    (u8 kind ‖ u32 length ‖ bytes)…     kind: 0 data, 1 error text, 2 end

hivemind's own calls carry protobufs and read any length that the other side announces. Here every length is checked
before it is read, every call has a timeout, and a peer that asks too often is told so. The transport's handshake proves
who is asking, so a handler knows it; the gate (`daemon.py`) decides whether that peer gets an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Literal, TypeVar

from p2ptrain.errors import MalformedError
from p2ptrain.run import PROTOCOL, PeerId, Record
from p2ptrain.run.access import STRANGER
from p2ptrain.run.digest import Buffer
from p2ptrain.swarm.daemon import Gate
from p2ptrain.swarm.node import ControlError, Node
from p2ptrain.text import first_line

MAX_FRAME_BYTES = 1024 * 1024
OPEN_TIMEOUT = 10.0
IDLE_TIMEOUT = 15.0
OPENING_TIMEOUT = 3.0
"""Seconds in which the request of a call that is open to all must arrive."""
CALLS_PER_PEER = 8
CALLS_IN_ALL = 64
OPENINGS_PER_PEER = 2
OPENINGS_IN_ALL = 32
"""Calls that are open to all have their own places, so strangers can't take the places of members."""
LEAVING_PER_PEER = 16
LEAVING_IN_ALL = 128
"""Calls that are answered or refused already, and wait until the caller closes the stream."""
LEAVING_BYTES = 64 * 1024
"""At most this much of a refused request is read while waiting."""
RATE, BURST = 200.0, 400.0
"""Calls that one peer may make: per second in the long run, and at once."""
UNVERSIONED = frozenset({"hello", "introduce"})
"""Calls that peers of all versions understand, so their names on the wire do not contain the protocol version."""

_DATA, _ERROR, _END = 0, 1, 2

log = logging.getLogger(__name__)

Request = TypeVar("Request", bound=Record)
Response = TypeVar("Response", bound=Record)
Reason = Literal["unreachable", "unknown method", "timeout", "refused", "malformed", "broken off"]


class RpcError(Exception):
    """A call that failed: which method, of which peer, and how it failed."""

    def __init__(self, peer: PeerId, method: str, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{method} to {peer[-6:]}: {reason}" + (f" ({detail})" if detail else ""))
        self.peer, self.method, self.reason, self.detail = peer, method, reason, detail


class Refused(Exception):
    """Raised by a handler to refuse a call; the caller gets the text."""


class RateLimit:
    """Limits how often each peer may call, by a bucket for each that refills with time: `rate` calls per second in the
    long run, `burst` calls at once after a long rest. The last `peers` that have called are remembered."""

    def __init__(self, rate: float, burst: float, peers: int = 4096) -> None:
        self._rate, self._burst, self._peers = rate, burst, peers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, peer: str, now: float | None = None) -> bool:
        """Whether the peer may call now; if so, this counts as a call. `now`: monotonic seconds."""
        now = time.monotonic() if now is None else now
        level, then = self._buckets.pop(peer, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        allowed = level >= 1
        self._buckets[peer] = (level - 1 if allowed else level, now)
        if len(self._buckets) > self._peers:
            self._buckets.popitem(last=False)
        return allowed


class Places:
    """Limits how many calls are answered at the same time: of one peer, and of all together."""

    def __init__(self, per_peer: int, in_all: int) -> None:
        self.per_peer, self.in_all = per_peer, in_all
        self.running: Counter[PeerId] = Counter()

    def refusal(self, peer: PeerId) -> str:
        """Why this peer gets no place now; empty if it gets one."""
        is_full = self.running[peer] >= self.per_peer or self.running.total() >= self.in_all
        return "too many calls at once" if is_full else ""

    @contextlib.contextmanager
    def taken(self, peer: PeerId) -> Iterator[None]:
        """Takes one place for as long as the context lasts."""
        self.running[peer] += 1
        try:
            yield
        finally:
            self.running[peer] -= 1
            if not self.running[peer]:
                del self.running[peer]


class Rpc:
    """Calls over one node: answers those of others, and makes its own."""

    def __init__(self, node: Node, gate: Gate) -> None:
        self._node, self._gate = node, gate
        self._limit = RateLimit(RATE, BURST)
        self._places = Places(CALLS_PER_PEER, CALLS_IN_ALL)
        self._open_places = Places(OPENINGS_PER_PEER, OPENINGS_IN_ALL)
        self._leaving = Places(LEAVING_PER_PEER, LEAVING_IN_ALL)

    # Serving -------------------------------------------------------------------------------------------------------

    async def serve(
        self,
        method: str,
        request_type: type[Request],
        handler: Callable[[PeerId, Request], Awaitable[Record]],
        open_to_all: bool = False,
    ) -> None:
        """Answer each call of `method` with one record.

        Args:
            handler: gets the caller and its request, returns the answer; may raise Refused.
            open_to_all: whether peers that the gate refuses get an answer, too.
        """

        async def answer(peer: PeerId, request: Request) -> AsyncGenerator[Buffer, None]:
            yield (await handler(peer, request)).encoded

        await self.serve_stream(method, request_type, answer, open_to_all)

    async def serve_stream(
        self,
        method: str,
        request_type: type[Request],
        handler: Callable[[PeerId, Request], AsyncGenerator[Buffer, None]],
        open_to_all: bool = False,
    ) -> None:
        """Answer each call of `method` with any number of frames of at most `MAX_FRAME_BYTES`; see `serve`.

        The gate is asked again before each frame, since an owner may revoke the caller while the answer is sent.
        """

        places = self._open_places if open_to_all else self._places

        async def handle(peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                refusal = "" if open_to_all else self._gate.refusal(peer)
                if refusal := refusal or places.refusal(peer):
                    raise Refused(refusal)
                with places.taken(peer):
                    await answer(peer, reader, writer)
            except (Refused, MalformedError) as error:
                await self._write(writer, method, _ERROR, str(error).encode()[:500])
            await self._wait_for_leaving(peer, reader)

        async def answer(peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            patience = OPENING_TIMEOUT if open_to_all else IDLE_TIMEOUT
            data = await asyncio.wait_for(_read_request(reader, request_type.max_bytes), patience)
            if not self._limit.allows(peer):
                raise Refused("too many calls, wait a second")
            async with contextlib.aclosing(handler(peer, request_type.decode(data))) as frames:
                async for frame in frames:
                    if not open_to_all and (refusal := self._gate.refusal(peer)):
                        raise Refused(refusal)
                    await self._write(writer, method, _DATA, frame)
            await self._write(writer, method, _END, b"")

        await self._node.handle(_protocol(method), handle)

    async def _write(self, writer: asyncio.StreamWriter, method: str, kind: int, frame: Buffer) -> None:
        header = bytes([kind]) + len(frame).to_bytes(4, "big")
        self._node.sent[method] += len(header) + len(frame)
        writer.write(header)
        writer.write(frame)
        async with asyncio.timeout(IDLE_TIMEOUT):  # wait_for would create a task for every frame
            await writer.drain()

    async def _wait_for_leaving(self, peer: PeerId, reader: asyncio.StreamReader) -> None:
        """Let the caller close the stream first, if it does so in time and not too many others are waiting.

        If this side closes a stream with unread bytes, p2pd resets it, and the caller loses what is still on its way.
        Now and then this happens without unread bytes, too, because the two directions race.
        """
        if self._leaving.refusal(peer):
            return
        left = LEAVING_BYTES
        with self._leaving.taken(peer), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_TIMEOUT):
                while left > 0 and (piece := await reader.read(left)):
                    left -= len(piece)

    # Calling -------------------------------------------------------------------------------------------------------

    async def call(
        self,
        peer: PeerId,
        method: str,
        request: Record,
        response_type: type[Response],
        timeout: float = IDLE_TIMEOUT,
        of_member: bool = True,
        tries: int = 1,
    ) -> Response:
        """Call a method that answers with one record.

        Args:
            timeout: seconds for each try.
            of_member: ask the gate first, which introduces this peer and makes sure that both belong to the run.
            tries: how often to ask if the call breaks off; more than 1 only where asking twice does no harm.

        Raises:
            RpcError: the call did not succeed.
        """

        async def first_frame() -> bytes:
            frames = self.stream(peer, method, request, response_type.max_bytes, of_member)
            async with contextlib.aclosing(frames):
                async for frame in frames:
                    return frame
            raise RpcError(peer, method, "broken off", "an empty answer")

        while True:
            tries -= 1
            try:
                return response_type.decode(await asyncio.wait_for(first_frame(), timeout))
            except TimeoutError:
                raise RpcError(peer, method, "timeout", f"{timeout:.0f} s") from None
            except MalformedError as error:
                raise RpcError(peer, method, "malformed", error.brief) from None
            except RpcError as error:
                if error.reason != "broken off" or not tries:
                    raise
                log.info("%s; asking again", error)

    async def stream(
        self, peer: PeerId, method: str, request: Record, max_frame: int = MAX_FRAME_BYTES, of_member: bool = True
    ) -> AsyncGenerator[bytes, None]:
        """Call a method that answers with frames of at most `max_frame` bytes. Leave the iterator early to end the
        call. Raises RpcError if the call was refused, or ended before all frames had come."""
        if of_member:
            await self._gate.meet(peer)
        for again in (False, True):
            try:
                async with contextlib.aclosing(self._ask(peer, method, request, max_frame)) as frames:
                    async for frame in frames:
                        yield frame
                return
            except RpcError as error:
                if not of_member or again or error.detail != STRANGER:
                    raise
                await self._gate.meet(peer, again=True)  # the peer has forgotten this one, e.g. by a restart

    async def _ask(self, peer: PeerId, method: str, request: Record, max_frame: int) -> AsyncGenerator[bytes, None]:
        try:
            opening = self._node.open_stream(peer, _protocol(method))
            reader, writer = await asyncio.wait_for(opening.__aenter__(), OPEN_TIMEOUT)
        except TimeoutError:
            raise RpcError(peer, method, "timeout", "no connection") from None
        except ControlError as error:
            reason: Reason = "unknown method" if "protocols not supported" in str(error) else "unreachable"
            raise RpcError(peer, method, reason, first_line(error)[:200]) from None
        except (OSError, asyncio.IncompleteReadError) as error:
            raise RpcError(peer, method, "unreachable", str(error)) from None
        try:
            data = request.encoded
            writer.write(len(data).to_bytes(4, "big") + data)
            self._node.sent[method] += 4 + len(data)
            await asyncio.wait_for(writer.drain(), IDLE_TIMEOUT)
            while True:
                async with asyncio.timeout(IDLE_TIMEOUT):
                    kind, frame = await _read_frame(reader, max_frame)
                if kind == _END:
                    return
                if kind == _ERROR:
                    raise RpcError(peer, method, "refused", frame[:500].decode(errors="replace"))
                yield frame
        except TimeoutError:
            raise RpcError(peer, method, "timeout", f"silent for {IDLE_TIMEOUT:.0f} s") from None
        except MalformedError as error:
            raise RpcError(peer, method, "malformed", error.what) from None
        except (OSError, asyncio.IncompleteReadError):
            raise RpcError(peer, method, "broken off") from None
        finally:
            await opening.__aexit__(None, None, None)


def _protocol(method: str) -> str:
    return f"/p2ptrain/{method}" if method in UNVERSIONED else f"/p2ptrain/{PROTOCOL}/{method}"


async def _read_request(reader: asyncio.StreamReader, limit: int) -> bytes:
    length = int.from_bytes(await reader.readexactly(4), "big")
    if length > limit:
        raise MalformedError("the request is too long", f"{length} bytes, at most {limit}")
    return await reader.readexactly(length)


async def _read_frame(reader: asyncio.StreamReader, limit: int) -> tuple[int, bytes]:
    header = await reader.readexactly(5)
    kind, length = header[0], int.from_bytes(header[1:], "big")
    if kind not in (_DATA, _ERROR, _END) or length > limit:
        raise MalformedError(f"an answer's frame is malformed (kind {kind}, {length} bytes, at most {limit})")
    return kind, await reader.readexactly(length)
