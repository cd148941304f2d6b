"""Calls between peers of one process, without a network: what `Rpc` promises, and sources that go wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

from p2ptrain.run import Digest, Manifest, PeerId, Record
from p2ptrain.run.digest import Buffer
from p2ptrain.state import Blobs, serve
from p2ptrain.state.fetch import BlobRequest
from p2ptrain.swarm import Refused, Rpc, RpcError

Handler = Callable[[PeerId, Any], AsyncGenerator[Buffer, None]]
Frames = AsyncGenerator[Buffer, None]
Fault = Callable[[BlobRequest, Frames], Frames]
"""Turns the frames of an honest answer into what a peer sends instead."""


class Wire:
    """Who serves what, and who was asked for what."""

    def __init__(self) -> None:
        self.handlers: dict[PeerId, Handler] = {}
        self.asked: list[tuple[PeerId, BlobRequest]] = []
        self.open: Counter[PeerId] = Counter()
        """Calls that have not come to an end, by the peer that was called."""

    def port(self, me: PeerId) -> Rpc:
        """What this peer calls and serves through."""
        return cast(Rpc, Port(self, me))

    def chunks_of(self, peer: PeerId) -> list[int]:
        """The chunks that a peer was asked for, in the order of asking."""
        return [
            index
            for asked, request in self.asked
            if asked == peer
            for index in range(request.first, request.first + request.count)
        ]

    async def add(self, peer: PeerId, *data: Buffer, fault: Fault | None = None) -> Blobs:
        """A peer that serves these bytes, in its own way if it has a fault."""
        blobs = Blobs()
        for part in data:
            blobs.hold(part, "test")
        await serve(self.port(peer), blobs)
        if fault is not None:
            honest = self.handlers[peer]
            self.handlers[peer] = lambda caller, request: fault(request, cast(Frames, honest(caller, request)))
        return blobs


class Port:
    def __init__(self, wire: Wire, me: PeerId) -> None:
        self._wire, self._me = wire, me

    async def serve_stream(self, _method: str, _request_type: type[Record], handler: Handler) -> None:
        self._wire.handlers[self._me] = handler

    async def stream(
        self, peer: PeerId, method: str, request: BlobRequest, max_frame: int
    ) -> AsyncGenerator[bytes, None]:
        self._wire.asked.append((peer, request))
        if peer not in self._wire.handlers:
            raise RpcError(peer, method, "unreachable", "no such peer")
        self._wire.open[peer] += 1
        try:
            async for frame in self._wire.handlers[peer](self._me, BlobRequest.decode(request.encoded)):
                await asyncio.sleep(0)
                if len(frame) > max_frame:
                    raise RpcError(peer, method, "malformed", "a long frame")
                yield bytes(frame)
        except Refused as error:
            raise RpcError(peer, method, "refused", str(error)) from None
        finally:
            self._wire.open[peer] -= 1


# Faults ------------------------------------------------------------------------------------------------------------


async def lies(_request: BlobRequest, frames: Frames) -> Frames:
    """Every chunk but the first two of a call is another one of the same length."""
    count = 0
    async for frame in frames:
        yield bytes(len(frame)) if count > 2 else frame
        count += 1


async def dies(request: BlobRequest, frames: Frames) -> Frames:
    """Breaks off after a few frames."""
    count = 0
    async for frame in frames:
        yield frame
        count += 1
        if count > 3:
            raise RpcError(PeerId("x" * 6), "blob", "broken off")


async def falls_silent(_request: BlobRequest, frames: Frames) -> Frames:
    async for frame in frames:
        yield frame
        await asyncio.Event().wait()


async def stops_early(_request: BlobRequest, frames: Frames) -> Frames:
    """Ends in good order, without the last frame."""
    last: Buffer | None = None
    async for frame in frames:
        if last is not None:
            yield last
        last = frame


async def goes_on(_request: BlobRequest, frames: Frames) -> Frames:
    """Sends more than was asked for."""
    async for frame in frames:
        yield frame
    yield b"and another thing"


async def sends_longer_chunks(request: BlobRequest, frames: Frames) -> Frames:
    first = request.manifest
    async for frame in frames:
        yield frame if first else bytes(frame) + b"."
        first = False


async def sends_shorter_chunks(request: BlobRequest, frames: Frames) -> Frames:
    first = request.manifest
    async for frame in frames:
        yield frame if first else bytes(frame)[:-1]
        first = False


async def sends_nothing(_request: BlobRequest, _frames: Frames) -> Frames:
    return
    yield b""


async def refuses(_request: BlobRequest, _frames: Frames) -> Frames:
    raise Refused("not today")
    yield b""


async def sends_a_garbled_manifest(request: BlobRequest, frames: Frames) -> Frames:
    first = request.manifest
    async for frame in frames:
        yield bytes(reversed(bytes(frame))) if first else frame
        first = False


async def sends_half_a_manifest(request: BlobRequest, frames: Frames) -> Frames:
    first = request.manifest
    async for frame in frames:
        yield bytes(frame)[:11] if first else frame
        first = False


async def sends_another_blob(_request: BlobRequest, _frames: Frames) -> Frames:
    other = b"nobody asked for this"
    yield Manifest.of(other).to_bytes()
    yield other


async def sends_an_endless_manifest(_request: BlobRequest, _frames: Frames) -> Frames:
    yield bytes(2**20 + 1)


FAULTS: list[Fault] = [
    lies,
    dies,
    falls_silent,
    stops_early,
    goes_on,
    sends_longer_chunks,
    sends_shorter_chunks,
    sends_nothing,
    refuses,
    sends_a_garbled_manifest,
    sends_half_a_manifest,
    sends_another_blob,
    sends_an_endless_manifest,
]


def request_for(blob: Digest, first: int = 0, count: int = 1, manifest: bool = False) -> BlobRequest:
    return BlobRequest(blob=blob, first=first, count=count, manifest=manifest)
