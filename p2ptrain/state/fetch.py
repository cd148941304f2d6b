"""All bulk data moves in one way: `fetch(digest)` from any peers that hold it.

The caller knows a digest and the peers that may have it. The first answer brings the blob's manifest, which is checked
against the digest. From then on every chunk is checked alone, so chunks can come from several peers at once. A peer
that sends a bad chunk is dropped and named in the log, and others are asked for its chunks. If a peer falls silent,
another one is asked for the same chunks as well, and the first answer counts. Chunks that have arrived are kept when
peers fail, also for the next `fetch` of the same digest. With an `Incoming` they are kept on disk, for the next start.
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
from p2ptrain.state.blobs import Blobs
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
"""A peer whose volunteer's limit makes callers wait longer than this takes no further calls."""
STALL_SECONDS = 3.0
"""If nothing has come from a source for this long, other sources are asked for its chunks."""
MAX_UNFINISHED = 8
"""Most blobs of which a part is kept in memory after a fetch has failed."""
_BAD_CHUNK = "bad chunk"
_MANIFEST_FRAME = 1024 * 1024
"""Largest frame of a manifest. The manifest of the largest blob fits into one."""

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
"""Called with (bytes here, bytes in all)."""


class BlobRequest(Record):
    """Asks for chunks `first` to `first + count` (exclusive) of a blob and, if `manifest`, for its manifest first."""

    kind: ClassVar[str] = "blob-request/1"
    max_bytes: ClassVar[int] = 256

    blob: DigestField
    first: Count
    count: Annotated[int, Field(ge=0, le=CHUNKS_PER_CALL)]
    manifest: bool


class FetchError(Exception):
    """No peer could hand out the blob. The text says who was asked and what went wrong."""


async def serve(rpc: Rpc, blobs: Blobs, throttle: Throttle = UNLIMITED) -> None:
    """Answer other peers' requests from `blobs`. All answers together are no faster than `throttle` allows."""

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
    """A call to one source."""

    heard: float
    """Loop time at which something last came from it. Infinite while this peer's own throttle delays the call: then the
    source does not count as silent."""
    pending: deque[int] = field(default_factory=deque)
    """Chunks that it has yet to send, in order."""


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
        self._most_at_once = throttle.streams(CHUNKS_PER_CALL, CHUNK_BYTES)
        """Most chunks to ask for in one call."""
        self._file: BinaryIO | None = None
        self._sources: Callable[[], Iterable[PeerId]] = tuple
        self._progress: Progress | None = None
        self._tries: Counter[PeerId] = Counter()
        """How often each source has failed since all were last forgiven."""
        self._reasons: dict[PeerId, str] = {}
        """Why each source has failed last."""
        self._busy: dict[PeerId, _Call] = {}
        self.manifest: Manifest | None = None
        self._data = memoryview(b"")
        self._here: set[int] = set()
        """Chunks that have arrived."""
        self._missing: deque[int] = deque()
        """Chunks that no source is being asked for."""

    async def run(
        self, sources: Callable[[], Iterable[PeerId]], patience: float, progress: Progress | None = None
    ) -> memoryview:
        """Fetch the blob, or the part of it that is still missing after an earlier call, as `Fetcher.fetch` says."""
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
                    self._tries.clear()  # all have failed: those that did not send bad chunks may be tried again
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
        """More sources to ask now; those that have not failed come first."""
        working = len(self._busy) - len(self._stalled())
        if self.manifest is None:
            count = 1 - working  # the manifest comes from one peer; then several can help
        elif self._missing or self._stalled():
            count = self._throttle.streams(SOURCES_AT_ONCE, CHUNK_BYTES) - working
        else:
            count = 0
        usable = filter(self._is_usable, dict.fromkeys(self._sources()))
        chosen = sorted(usable, key=self._reasons.__contains__)[: max(0, count)]
        for peer in chosen:
            self._busy[peer] = _Call(asyncio.get_running_loop().time())
        return chosen

    def _is_usable(self, peer: PeerId) -> bool:
        has_lied = self._reasons.get(peer) == _BAD_CHUNK
        return not has_lied and peer not in self._busy and self._tries[peer] < TRIES_PER_SOURCE

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

    def _take(self) -> range:
        """The next consecutive missing chunks, to ask one source for. If none is missing, chunks that a silent source
        has yet to send."""
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
            # Ask only for what may come now: data on its way can't be stopped.
            call.heard = math.inf  # the source is not to blame for this wait
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
        """Take in a manifest; the first one counts. Returns the number of chunks."""
        manifest = Manifest.from_bytes(frame, self.digest)
        if manifest.size > self._max_bytes:
            raise MalformedError("a blob is larger than it may be", f"{manifest.size} bytes")
        if self.manifest is None:
            self._expect(manifest, np.empty(manifest.size, np.uint8).data, set())
        return len(manifest.chunks)

    def _expect(self, manifest: Manifest, data: memoryview, here: set[int]) -> None:
        """Note the chunks that the blob consists of, and those that are here already."""
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
    """Fetches blobs, and holds them so that other peers can have them from here."""

    def __init__(self, rpc: Rpc, blobs: Blobs, throttle: Throttle = UNLIMITED) -> None:
        self._rpc, self._blobs, self._throttle = rpc, blobs, throttle
        self._unfinished: OrderedDict[tuple[Digest, int], Fetch] = OrderedDict()
        """Fetches that have failed, by their blob and its largest size. A caller that allows less than a blob has does
        not stand in the way of the others."""

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
        """The bytes of a blob, checked against the digest. They come from here, or from one or several peers.

        Args:
            digest: of the blob.
            sources: returns the peers that may have it, the likeliest first; it is called again and again.
            purpose: under which the bytes that this peer hands out are counted.
            max_bytes: size of the largest blob to accept.
            patience: seconds without any progress after which to give up.
            progress: called after each chunk.
            incoming: keeps chunks on disk when they arrive. The caller deletes them there (`forget`) once it has saved
                the blob elsewhere.

        Raises:
            FetchError: no peer could hand it out.
            StorageError: what arrived can't be written to `incoming`.
        """
        held = self._blobs.read(digest)
        if held is not None:
            return held
        wanted = digest, max_bytes
        fetch = self._unfinished.pop(wanted, None) or Fetch(self._rpc, digest, max_bytes, self._throttle, incoming)
        try:
            data = await fetch.run(sources, patience, progress)
        except FetchError:
            if incoming is None:
                self._unfinished[wanted] = fetch
            if len(self._unfinished) > MAX_UNFINISHED:
                self._unfinished.popitem(last=False)
            raise
        assert fetch.manifest is not None
        self._blobs.hold(data, purpose, fetch.manifest)
        return data

    def release(self, digest: Digest) -> None:
        """Stop holding a blob that was fetched."""
        self._blobs.release(digest)
