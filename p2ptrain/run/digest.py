"""Digests: one function names everything that can be fetched, by its content.

A blob of `size` bytes is cut into chunks of 256 KiB. Its digest is

    BLAKE3-derive-key("p2ptrain 2026 blob", le64(size) ‖ BLAKE3(chunk_0) ‖ BLAKE3(chunk_1) ‖ …)

A receiver that knows the digest checks the list of chunk digests once. Then it can check every chunk alone, whichever
peer sent it. A record is a blob of one chunk, so the same function names records.
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
"""Used where there is nothing to name, e.g. as the commit before the first one."""
SHORTEST_ID = 6
"""Fewest hexadecimal digits of its id that name a run. With fewer, a typing error would name another run."""

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Manifest:
    """The chunk digests of one blob: enough to check any chunk of it."""

    size: int
    chunks: tuple[Digest, ...]

    @classmethod
    def of(cls, data: Buffer) -> Manifest:
        """The manifest of a contiguous buffer."""
        view = memoryview(data).cast("B")
        return cls(len(view), tuple(chunk_digest(view[start:stop]) for start, stop in chunk_spans(len(view))))

    @property
    def digest(self) -> Digest:
        return Digest(blake3(self.to_bytes(), derive_key_context="p2ptrain 2026 blob").digest())

    def to_bytes(self) -> bytes:
        return self.size.to_bytes(8, "little") + b"".join(self.chunks)

    @classmethod
    def from_bytes(cls, data: bytes, expected: Digest) -> Manifest:
        """Decode a manifest that a peer sent; raises MalformedError if it is not that of the blob with this digest."""
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
    """The first eight hexadecimal digits, for people."""
    return digest.hex()[:8]
