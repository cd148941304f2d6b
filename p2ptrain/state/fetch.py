"""The one way in which bulk data moves: `fetch(digest)` from any peers that hold it.

The caller knows a digest and who may have it. The first answer brings the blob's manifest, which the digest proves;
from then on every chunk is checked alone, so chunks may come from several peers at once and a bad one costs nothing
but itself: its sender is dropped and named, its chunks are asked of the others. Who falls silent in the middle keeps
nobody waiting either: the same chunks are asked of another source as well, and whichever answer comes first counts.
What has arrived stays when sources fail, also for the next `fetch` of the same digest; with an `Incoming` it stays on
disk, for the next start of the peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, BinaryIO, ClassVar

import numpy as np
from pydantic import Field

from p2ptrain.errors import MalformedError
from p2ptrain.run import CHUNK_BYTES, Digest, Manifest, PeerId, Record, short, short_peer
from p2ptrain.run.digest import Buffer, chunk_digest
from p2ptrain.run.record import Count, DigestField
from p2ptrain.state.blobs import Blobs, MemorySource
from p2ptrain.state.incoming import Incoming, write_at
from p2ptrain.state.throttle import UNLIMITED, Throttle
from p2ptrain.swarm import Refused, Rpc, RpcError

METHOD = "blob"
MAX_BLOB_BYTES = 8 * 2**30 - CHUNK_BYTES
CHUNKS_PER_CALL = 64
SOURCES_AT_ONCE = 4
TRIES_PER_SOURCE = 2
RETRY_SECONDS = 0.5
BUSY_SECONDS = 3.0
"""Who has so much to hand out already, by his volunteer's limit, takes no further calls."""
STALL_SECONDS = 3.0
"""A source from which nothing has come for so long is worked around."""
MAX_UNFINISHED = 8
"""Blobs of which a part is kept after a fetch has failed."""
_BAD_CHUNK = "bad chunk"
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


async def serve(rpc: Rpc, blobs: Blobs, throttle: Throttle = UNLIMITED) -> None:
    """Answer other peers' requests from `blobs`, all together no faster than `throttle` says."""

    async def answer(_peer: PeerId, request: BlobRequest) -> AsyncGenerator[Buffer, None]:
        blob = blobs.get(request.blob)
        if blob is None:
            raise Refused("not here")
        if throttle.backlog > BUSY_SECONDS:
            raise Refused("busy")
        if request.manifest:
            data = blob.manifest.to_bytes()
            blobs.sent[blob.purpose] += len(data) + 5
            yield data
        for index in range(request.first, min(request.first + request.count, len(blob.manifest.chunks))):
            chunk = blobs.chunk(blob, index)
            if chunk is None:
                raise Refused("damaged here")
            await throttle.take(len(chunk))
            blobs.sent[blob.purpose] += len(chunk) + 5
            yield chunk

    await rpc.serve_stream(METHOD, BlobRequest, answer)


@dataclass(slots=True)
class _Call:
    """What one source is busy with."""

    heard: float
    """When something last came from it; never stalled (inf) while this peer's own throttle delays asking it."""
    pending: deque[int] = field(default_factory=deque)
    """Chunks that it still owes, in order."""


class Fetch:
    """One blob on its way here."""

    def __init__(
        self,
        rpc: Rpc,
        digest: Digest,
        max_bytes: int = MAX_BLOB_BYTES,
        throttle: Throttle = UNLIMITED,
        incoming: Incoming | None = None,
    ) -> None:
        self._rpc, self.digest, self._max_bytes = rpc, digest, max_bytes
        self._throttle, self._incoming = throttle, incoming
        self._file: BinaryIO | None = None
        self._sources: Callable[[], Iterable[PeerId]] = tuple
        self._progress: Progress | None = None
        self._tries: Counter[PeerId] = Counter()
        """In vain, since all were last forgiven."""
        self._reasons: dict[PeerId, str] = {}
        """How a source has failed last."""
        self._busy: dict[PeerId, _Call] = {}
        self.manifest: Manifest | None = None
        self._data = memoryview(b"")
        self._here: set[int] = set()
        """Chunks that have arrived."""
        self._missing: deque[int] = deque()
        """Chunks that nobody is being asked for."""

    async def run(
        self, sources: Callable[[], Iterable[PeerId]], patience: float, progress: Progress | None = None
    ) -> memoryview:
        """Fetch the blob, or what is missing of it since the last try.

        Args:
            sources: who may have it, the likeliest first; asked again and again.
            patience: seconds without any progress after which to give up.

        Raises:
            FetchError: that time passed.
            StorageError: what arrived can't be kept.
        """
        self._sources, self._progress = sources, progress
        if self._incoming is not None and (found := await asyncio.to_thread(self._incoming.resume, self.digest)):
            self._expect(*found)
        workers: set[asyncio.Task[None]] = set()
        last, last_arrived = asyncio.get_running_loop().time(), -1
        try:
            while not self._complete:
                for peer in self._free_sources():
                    workers.add(asyncio.create_task(self._pull(peer)))
                if workers:
                    done, workers = await asyncio.wait(
                        workers, timeout=RETRY_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                    for worker in done:
                        worker.result()
                else:
                    await asyncio.sleep(RETRY_SECONDS)
                    self._tries.clear()  # everyone failed: whoever did not lie may be tried again
                now = asyncio.get_running_loop().time()
                if len(self._here) != last_arrived or any(call.heard == math.inf for call in self._busy.values()):
                    last, last_arrived = now, len(self._here)
                elif now - last > patience:
                    raise FetchError(self._account())
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            if self._file is not None:
                self._file.close()
                self._file = None
        return self._data

    @property
    def _complete(self) -> bool:
        return self.manifest is not None and len(self._here) == len(self.manifest.chunks)

    def _stalled(self) -> list[_Call]:
        now = asyncio.get_running_loop().time()
        return [call for call in self._busy.values() if now - call.heard > STALL_SECONDS]

    def _free_sources(self) -> list[PeerId]:
        """Whom to ask as well now: those that have failed least first."""
        working = len(self._busy) - len(self._stalled())
        if self.manifest is None:
            count = 1 - working  # one peer tells the manifest; then all can help
        elif self._missing or self._stalled():
            count = self._throttle.streams(SOURCES_AT_ONCE, CHUNK_BYTES) - working
        else:
            count = 0
        usable = [
            peer
            for peer in dict.fromkeys(self._sources())
            if peer not in self._busy and self._tries[peer] < TRIES_PER_SOURCE and self._reasons.get(peer) != _BAD_CHUNK
        ]
        chosen = sorted(usable, key=lambda peer: peer in self._reasons)[: max(0, count)]
        for peer in chosen:
            self._busy[peer] = _Call(asyncio.get_running_loop().time())
        return chosen

    async def _pull(self, peer: PeerId) -> None:
        """Fetch from one peer until nothing is missing or it fails."""
        try:
            while not self._complete:
                indices = range(self._most_at_once) if self.manifest is None else self._take()
                if not indices:
                    return
                await self._call(peer, indices)
        except (RpcError, MalformedError) as error:
            reason = error.what if isinstance(error, MalformedError) else str(error)
            self._reasons[peer] = reason
            self._tries[peer] += 1
            log.debug("fetching %s from %s failed: %s", short(self.digest), short_peer(peer), reason)
        finally:
            del self._busy[peer]

    @property
    def _most_at_once(self) -> int:
        """Chunks to ask for in one call."""
        return self._throttle.streams(CHUNKS_PER_CALL, CHUNK_BYTES)

    def _take(self) -> range:
        """The next run of consecutive missing chunks; they are missing no more until they fail. If all are asked for,
        those that a stalled source owes."""
        if not self._missing:
            owed = [index for call in self._stalled() for index in call.pending if index not in self._here]
            self._missing.extend(sorted(set(owed)))
        if not self._missing:
            return range(0)
        first = self._missing.popleft()
        stop = first + 1
        while stop - first < self._most_at_once and self._missing and self._missing[0] == stop:
            self._missing.popleft()
            stop += 1
        return range(first, stop)

    async def _call(self, peer: PeerId, indices: range) -> None:
        wants_manifest = self.manifest is None
        call = self._busy[peer]
        call.pending = deque() if wants_manifest else deque(indices)
        owed = min(len(indices) * CHUNK_BYTES, self._max_bytes)
        try:
            # Nothing is asked for that may not come yet: what is on its way can't be stopped.
            call.heard = math.inf  # that this has to wait is not the source's fault
            await self._throttle.take(owed)
            call.heard = asyncio.get_running_loop().time()
            request = BlobRequest(blob=self.digest, first=indices.start, count=len(indices), manifest=wants_manifest)
            async with contextlib.aclosing(self._rpc.stream(peer, METHOD, request, _MANIFEST_FRAME)) as frames:
                async for frame in frames:
                    call.heard = asyncio.get_running_loop().time()
                    if wants_manifest:
                        wants_manifest = False
                        call.pending = deque(range(min(len(indices), self._begin(frame))))
                        self._missing = deque(index for index in self._missing if index not in call.pending)
                    elif call.pending:
                        self._store(peer, call.pending[0], frame)
                        call.pending.popleft()
                    else:
                        raise MalformedError("more chunks than were asked for")
                    owed -= len(frame)
            if wants_manifest or call.pending:
                raise MalformedError("fewer chunks than were asked for")
        finally:
            self._throttle.give_back(max(0, owed))
            self._missing.extendleft(index for index in reversed(call.pending) if index not in self._here)
            call.pending.clear()

    def _begin(self, frame: bytes) -> int:
        """Take in the manifest, whoever tells it first; returns the number of chunks."""
        manifest = Manifest.from_bytes(frame, self.digest)
        if manifest.size > self._max_bytes:
            raise MalformedError("a blob is larger than it may be", f"{manifest.size} bytes")
        if self.manifest is None:
            self._expect(manifest, np.empty(manifest.size, np.uint8).data, set())
        return len(manifest.chunks)

    def _expect(self, manifest: Manifest, data: memoryview, here: set[int]) -> None:
        """From now on it is known what the blob consists of."""
        self.manifest, self._data, self._here = manifest, data, here
        self._missing = deque(index for index in range(len(manifest.chunks)) if index not in here)
        if self._incoming is not None:
            self._file = self._incoming.open(self.digest, manifest)

    def _store(self, peer: PeerId, index: int, chunk: bytes) -> None:
        assert self.manifest is not None
        if chunk_digest(chunk) != self.manifest.chunks[index]:
            log.warning("%s sent bytes that do not match their digest; it is not asked again", peer)
            raise MalformedError(_BAD_CHUNK)
        start = index * CHUNK_BYTES
        self._data[start : start + len(chunk)] = chunk
        self._here.add(index)
        if self._incoming is not None and self._file is not None:
            try:
                write_at(self._file, start, chunk)
            except OSError as error:
                raise self._incoming.failed(error) from None
        if self._progress is not None:
            self._progress(min(len(self._here) * CHUNK_BYTES, len(self._data)), len(self._data))

    def _account(self) -> str:
        if not self._reasons:
            return f"nobody offers {short(self.digest)}"
        told = "; ".join(f"{short_peer(peer)}: {reason}" for peer, reason in self._reasons.items())
        return f"nobody could hand out {short(self.digest)} ({told})"


class Fetcher:
    """Fetches blobs and holds them, so that whoever comes later can have them from here."""

    def __init__(self, rpc: Rpc, blobs: Blobs, throttle: Throttle = UNLIMITED) -> None:
        self._rpc, self._blobs, self._throttle = rpc, blobs, throttle
        self._unfinished: OrderedDict[Digest, Fetch] = OrderedDict()

    async def fetch(
        self,
        digest: Digest,
        sources: Callable[[], Iterable[PeerId]],
        purpose: str,
        max_bytes: int = MAX_BLOB_BYTES,
        patience: float = 60.0,
        progress: Progress | None = None,
        incoming: Incoming | None = None,
    ) -> Buffer:
        """The blob's bytes, from here or from one or several of `sources`; checked against the digest.

        Args:
            incoming: where to keep what arrives, until the caller has it safe and forgets it there.

        Raises:
            FetchError: nobody could hand it out within `patience` seconds of the last progress.
            StorageError: what arrived can't be kept in `incoming`.
        """
        held = self._blobs.read(digest)
        if held is not None:
            return held
        fetch = self._unfinished.pop(digest, None) or Fetch(self._rpc, digest, max_bytes, self._throttle, incoming)
        try:
            data = await fetch.run(sources, patience, progress)
        except FetchError:
            if incoming is None:
                self._unfinished[digest] = fetch
            if len(self._unfinished) > MAX_UNFINISHED:
                self._unfinished.popitem(last=False)
            raise
        assert fetch.manifest is not None
        self._blobs.hold_source(fetch.manifest, MemorySource(data), purpose)
        return data

    def release(self, digest: Digest) -> None:
        """What was fetched is not needed after all."""
        self._blobs.release(digest)
