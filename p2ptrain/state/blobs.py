"""The blobs that this peer can hand out by digest, chunk by chunk: bytes in memory, and vectors in files."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.errors import StorageError
from p2ptrain.run import CHUNK_BYTES, Digest, Manifest, digest_of
from p2ptrain.run.digest import Buffer, chunk_digest

Read = Callable[[int, int], Buffer]
"""Reads bytes `start` to `stop` (exclusive) of a blob; raises OSError or StorageError if they can't be read."""


def read_file(path: Path, offset: int, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` (exclusive) of what a file holds from `offset` on."""
    with path.open("rb") as file:
        file.seek(offset + start)
        return file.read(stop - start)


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob. The bytes that are sent of it are counted under its purpose."""

    manifest: Manifest
    read: Read
    purpose: str

    def chunk(self, index: int) -> Buffer:
        start = index * CHUNK_BYTES
        return self.read(start, min(start + CHUNK_BYTES, self.manifest.size))

    def read_all(self) -> bytes:
        return bytes(self.read(0, self.manifest.size))


class Blobs:
    """The blobs that this peer holds and serves. Any thread may call this."""

    def __init__(self) -> None:
        self._held: dict[Digest, Blob] = {}
        self.sent: Counter[str] = Counter()
        """Bytes handed out, with their frames, by purpose."""

    def hold(self, data: Buffer, purpose: str, manifest: Manifest | None = None) -> Digest:
        """Hold and serve these bytes, which must not change any more. Returns their digest."""
        view = memoryview(data)
        return self.hold_source(manifest or Manifest.of(data), lambda start, stop: view[start:stop], purpose)

    def hold_source(self, manifest: Manifest, read: Read, purpose: str) -> Digest:
        """Hold and serve bytes that are read when somebody asks for them. Returns their digest."""
        digest = manifest.digest
        self._held[digest] = Blob(manifest, read, purpose)
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
