"""The one way in which bulk data moves: `fetch(digest)` from any peers that hold it.

The caller knows a digest and who may have it. The first answer brings the blob's manifest, which the digest proves;
from then on every chunk is checked alone, so chunks may come from several peers at once and a bad one costs nothing
but itself: its sender is dropped and named, its chunks are asked of the others. What has arrived stays when sources
fail; the fetch goes on as soon as `sources` names somebody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Annotated, ClassVar

from pydantic import Field

from p2ptrain.errors import MalformedError
from p2ptrain.run import CHUNK_BYTES, Digest, Manifest, PeerId, Record, short, short_peer
from p2ptrain.run.digest import Buffer, chunk_digest
from p2ptrain.run.record import Count, DigestField
from p2ptrain.state.blobs import Blobs, MemorySource
from p2ptrain.swarm import Refused, Rpc, RpcError

METHOD = "blob"
MAX_BLOB_BYTES = 8 * 2**30
CHUNKS_PER_CALL = 16
SOURCES_AT_ONCE = 4
TRIES_PER_SOURCE = 2
RETRY_SECONDS = 0.5
_MANIFEST_FRAME = 1024 * 1024
"""A manifest travels in frames of this size; the largest blob's takes one."""

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
"""Called with (bytes here, bytes in all)."""


class BlobRequest(Record):
    """Chunks `first` to `first + count` of a blob, and before them its manifest, if asked for."""

    kind: ClassVar[str] = "blob-request/1"
    max_bytes: ClassVar[int] = 256

    blob: DigestField
    first: Count
    count: Annotated[int, Field(ge=0, le=CHUNKS_PER_CALL)]
    manifest: bool


class FetchError(Exception):
    """Nobody could hand out the blob; the text says who was asked and what went wrong."""


async def serve(rpc: Rpc, blobs: Blobs) -> None:
    """Answer other peers' requests from `blobs`."""

    async def answer(_peer: PeerId, request: BlobRequest) -> AsyncIterator[Buffer]:
        blob = blobs.get(Digest(request.blob))
        if blob is None:
            raise Refused("not here")
        if request.manifest:
            data = blob.manifest.to_bytes()
            blobs.sent[blob.purpose] += len(data) + 5
            yield data
        for index in range(request.first, min(request.first + request.count, len(blob.manifest.chunks))):
            chunk = blob.chunk(index)
            blobs.sent[blob.purpose] += len(chunk) + 5
            yield chunk

    await rpc.serve_stream(METHOD, BlobRequest, answer)


class Fetch:
    """One blob on its way here."""

    def __init__(
        self,
        rpc: Rpc,
        digest: Digest,
        sources: Callable[[], Iterable[PeerId]],
        max_bytes: int = MAX_BLOB_BYTES,
        progress: Progress | None = None,
    ) -> None:
        self._rpc, self.digest, self._sources = rpc, digest, sources
        self._max_bytes, self._progress = max_bytes, progress
        self._failures: dict[PeerId, list[str]] = {}
        self._busy: set[PeerId] = set()
        self._manifest: Manifest | None = None
        self._data = bytearray()
        self._missing: deque[int] = deque()
        self._arrived = 0

    async def run(self, patience: float) -> bytearray:
        """Fetch the blob.

        Args:
            patience: seconds without any progress after which to give up.

        Raises:
            FetchError: that time passed.
        """
        workers: set[asyncio.Task[None]] = set()
        last, last_arrived = asyncio.get_running_loop().time(), -1
        try:
            while not self._complete:
                for peer in self._free_sources(SOURCES_AT_ONCE - len(workers)):
                    workers.add(asyncio.create_task(self._pull(peer)))
                if workers:
                    done, workers = await asyncio.wait(
                        workers, timeout=RETRY_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                    for worker in done:
                        worker.result()
                else:
                    await asyncio.sleep(RETRY_SECONDS)
                    self._forgive()
                now = asyncio.get_running_loop().time()
                if self._arrived != last_arrived:
                    last, last_arrived = now, self._arrived
                elif now - last > patience:
                    raise FetchError(self._account())
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return self._data

    @property
    def _complete(self) -> bool:
        return self._manifest is not None and self._arrived == len(self._manifest.chunks)

    def _free_sources(self, count: int) -> list[PeerId]:
        if self._manifest is None:
            count = min(count, 1 - len(self._busy))  # one peer tells the manifest; then all can help
        elif not self._missing:
            count = 0
        usable = (
            peer
            for peer in dict.fromkeys(self._sources())
            if peer not in self._busy and len(self._failures.get(peer, ())) < TRIES_PER_SOURCE
        )
        chosen = [peer for peer, _ in zip(usable, range(count), strict=False)]
        self._busy.update(chosen)
        return chosen

    def _forgive(self) -> None:
        """Everyone failed: whoever was only unreachable may be tried again."""
        self._failures = {peer: texts for peer, texts in self._failures.items() if "bad chunk" in texts}

    async def _pull(self, peer: PeerId) -> None:
        """Fetch from one peer until nothing is missing or it fails."""
        try:
            while not self._complete:
                if self._manifest is None:
                    await self._call(peer, range(0, CHUNKS_PER_CALL))
                elif indices := self._take():
                    await self._call(peer, indices)
                else:
                    return
        except (RpcError, MalformedError) as error:
            reason = error.what if isinstance(error, MalformedError) else str(error)
            self._failures.setdefault(peer, []).append(reason)
            log.debug("fetching %s from %s failed: %s", short(self.digest), short_peer(peer), reason)
        finally:
            self._busy.discard(peer)

    def _take(self) -> range:
        """The next run of consecutive missing chunks; they are missing no more until they fail."""
        if not self._missing:
            return range(0)
        first = self._missing.popleft()
        stop = first + 1
        while stop - first < CHUNKS_PER_CALL and self._missing and self._missing[0] == stop:
            self._missing.popleft()
            stop += 1
        return range(first, stop)

    async def _call(self, peer: PeerId, indices: range) -> None:
        wants_manifest = self._manifest is None
        request = BlobRequest(blob=self.digest, first=indices.start, count=len(indices), manifest=wants_manifest)
        pending = deque(indices)
        frames = self._rpc.stream(peer, METHOD, request, _MANIFEST_FRAME)
        try:
            async with contextlib.aclosing(frames):
                async for frame in frames:
                    if self._manifest is None:
                        self._begin(frame)
                        pending = deque(index for index in indices if index < len(self._missing))
                        for index in pending:
                            self._missing.remove(index)
                    elif pending:
                        self._store(peer, pending[0], frame)
                        pending.popleft()
                    else:
                        raise MalformedError("more chunks than were asked for")
            if pending:
                raise MalformedError("fewer chunks than were asked for")
        finally:
            if self._manifest is not None:
                self._missing.extendleft(reversed(pending))

    def _begin(self, frame: bytes) -> None:
        manifest = Manifest.from_bytes(frame, self.digest)
        if manifest.size > self._max_bytes:
            raise MalformedError("a blob is larger than it may be", f"{manifest.size} bytes")
        self._manifest = manifest
        self._data = bytearray(manifest.size)
        self._missing = deque(range(len(manifest.chunks)))

    def _store(self, peer: PeerId, index: int, chunk: bytes) -> None:
        assert self._manifest is not None
        if chunk_digest(chunk) != self._manifest.chunks[index]:
            self._failures.setdefault(peer, []).append("bad chunk")
            log.warning("%s sent bytes that do not match their digest; it is not asked again", peer)
            raise MalformedError("bad chunk")
        start = index * CHUNK_BYTES
        self._data[start : start + len(chunk)] = chunk
        self._arrived += 1
        if self._progress is not None:
            self._progress(min(self._arrived * CHUNK_BYTES, len(self._data)), len(self._data))

    def _account(self) -> str:
        if not self._failures:
            return f"nobody offers {short(self.digest)}"
        told = "; ".join(f"{short_peer(peer)}: {texts[-1]}" for peer, texts in self._failures.items())
        return f"nobody could hand out {short(self.digest)} ({told})"


class Fetcher:
    """Fetches blobs and holds them, so that whoever comes later can have them from here."""

    def __init__(self, rpc: Rpc, blobs: Blobs) -> None:
        self._rpc, self._blobs = rpc, blobs

    async def fetch(
        self,
        digest: Digest,
        sources: Callable[[], Iterable[PeerId]],
        purpose: str,
        max_bytes: int = MAX_BLOB_BYTES,
        patience: float = 60.0,
        progress: Progress | None = None,
    ) -> bytes | bytearray:
        """The blob's bytes, from here or from one or several of `sources`; checked against the digest.

        Raises:
            FetchError: nobody could hand it out within `patience` seconds of the last progress.
        """
        held = self._blobs.get(digest)
        if held is not None:
            return held.read_all()
        fetch = Fetch(self._rpc, digest, sources, max_bytes, progress)
        data = await fetch.run(patience)
        assert fetch._manifest is not None
        self._blobs.hold_source(fetch._manifest, MemorySource(data), purpose)
        return data
