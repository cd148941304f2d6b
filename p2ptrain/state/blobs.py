"""The blobs that this peer can hand out by digest, chunk by chunk: bytes in memory, and vectors in files."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from p2ptrain.errors import StorageError
from p2ptrain.run import CHUNK_BYTES, Digest, Manifest, digest_of
from p2ptrain.run.digest import Buffer, chunk_digest


class Source(Protocol):
    """Where the bytes of a blob are: in memory, in a file, or in a ledger."""

    def read(self, start: int, stop: int) -> Buffer: ...


@dataclass(frozen=True, slots=True)
class MemorySource:
    data: Buffer

    def read(self, start: int, stop: int) -> Buffer:
        return memoryview(self.data)[start:stop]


@dataclass(frozen=True, slots=True)
class FileSource:
    """The bytes of a file from `offset` on."""

    path: Path
    offset: int

    def read(self, start: int, stop: int) -> Buffer:
        with self.path.open("rb") as file:
            file.seek(self.offset + start)
            return file.read(stop - start)


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob. The bytes that are sent of it are counted under its purpose."""

    manifest: Manifest
    source: Source
    purpose: str

    def chunk(self, index: int) -> Buffer:
        start = index * CHUNK_BYTES
        return self.source.read(start, min(start + CHUNK_BYTES, self.manifest.size))

    def read_all(self) -> bytes:
        return bytes(self.source.read(0, self.manifest.size))


class Blobs:
    """The blobs that this peer holds and serves. Any thread may call this."""

    def __init__(self) -> None:
        self._held: dict[Digest, Blob] = {}
        self.sent: Counter[str] = Counter()
        """Bytes handed out, with their frames, by purpose."""

    def hold(self, data: Buffer, purpose: str, manifest: Manifest | None = None) -> Digest:
        """Hold and serve these bytes, which must not change any more. Returns their digest."""
        manifest = manifest or Manifest.of(data)
        return self.hold_source(manifest, MemorySource(data), purpose)

    def hold_source(self, manifest: Manifest, source: Source, purpose: str) -> Digest:
        """Hold and serve the bytes of a source. Returns their digest."""
        digest = manifest.digest
        self._held[digest] = Blob(manifest, source, purpose)
        return digest

    def release(self, digest: Digest) -> None:
        self._held.pop(digest, None)

    def get(self, digest: Digest) -> Blob | None:
        return self._held.get(digest)

    def read(self, digest: Digest) -> bytes | None:
        """The bytes of a blob, checked against the digest; None if it is not here.

        A blob whose bytes have changed, e.g. on disk, is released: it counts as not here.
        """
        blob = self._held.get(digest)
        if blob is None:
            return None
        with contextlib.suppress(OSError, StorageError):
            data = blob.read_all()
            if digest_of(data) == digest:
                return data
        self.release(digest)
        return None

    def chunk(self, blob: Blob, index: int) -> Buffer | None:
        """One chunk of a blob, checked; None as in `read`. Other peers would drop this one for a wrong chunk."""
        with contextlib.suppress(OSError, StorageError):
            data = blob.chunk(index)
            if chunk_digest(data) == blob.manifest.chunks[index]:
                return data
        self.release(blob.manifest.digest)
        return None

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._held
