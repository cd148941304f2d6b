"""Content digests: one function names everything that can be fetched.

A blob of `size` bytes is cut into chunks of 256 KiB. Its digest is

    BLAKE3-derive-key("p2ptrain 2026 blob", le64(size) ‖ BLAKE3(chunk_0) ‖ BLAKE3(chunk_1) ‖ …)

so a receiver who knows the digest can check the list of chunk digests once and then every chunk alone, from
whichever peer it came. A record is a blob of one chunk: the same function names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NewType

from blake3 import blake3

from p2ptrain.errors import MalformedError

Digest = NewType("Digest", bytes)

DIGEST_BYTES = 32
CHUNK_BYTES = 256 * 1024
NO_DIGEST = Digest(bytes(DIGEST_BYTES))
"""Stands where there is nothing to name, e.g. the commit before the first."""
SHORTEST_ID = 6
"""Hexadecimal digits that name a run by the beginning of its id: with fewer a slip of the pen would be somebody's."""

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Manifest:
    """The chunk digests of one blob: enough to check any chunk of it."""

    size: int
    chunks: tuple[Digest, ...]

    @classmethod
    def of(cls, data: Buffer) -> Manifest:
        """Hash a contiguous buffer of bytes."""
        view = memoryview(data).cast("B")
        return cls(len(view), tuple(chunk_digest(view[start:stop]) for start, stop in chunk_spans(len(view))))

    @property
    def digest(self) -> Digest:
        hasher = blake3(derive_key_context="p2ptrain 2026 blob")
        hasher.update(self.size.to_bytes(8, "little"))
        hasher.update(b"".join(self.chunks))
        return Digest(hasher.digest())

    def to_bytes(self) -> bytes:
        return self.size.to_bytes(8, "little") + b"".join(self.chunks)

    @classmethod
    def from_bytes(cls, data: bytes, expected: Digest) -> Manifest:
        """Parse what a peer sent and check it against the digest that was asked for.

        Raises:
            MalformedError: the bytes are not the manifest of that blob.
        """
        if len(data) < 8 or (len(data) - 8) % DIGEST_BYTES:
            raise MalformedError("a blob's manifest has an impossible length", f"{len(data)} bytes")
        size = int.from_bytes(data[:8], "little")
        chunks = tuple(Digest(data[at : at + DIGEST_BYTES]) for at in range(8, len(data), DIGEST_BYTES))
        manifest = cls(size, chunks)
        if len(chunks) != chunk_count(size) or manifest.digest != expected:
            raise MalformedError("a blob's manifest does not match its digest", expected.hex()[:12])
        return manifest


def digest_of(data: Buffer) -> Digest:
    """The digest that names these bytes."""
    return Manifest.of(data).digest


def chunk_digest(chunk: Buffer) -> Digest:
    return Digest(blake3(chunk).digest())


def chunk_count(size: int) -> int:
    return -(-size // CHUNK_BYTES)


def chunk_spans(size: int) -> Iterator[tuple[int, int]]:
    """The (start, stop) byte offsets of each chunk of a blob."""
    for start in range(0, size, CHUNK_BYTES):
        yield start, min(start + CHUNK_BYTES, size)


def short(digest: bytes) -> str:
    """Eight hexadecimal digits, for people."""
    return digest.hex()[:8]
