"""Unfinished blobs on disk: a fetch goes on where a restart, a crash or a lost connection has ended it.

<digest>.manifest   the digests of the blob's chunks
<digest>.part       its bytes; each chunk is written at its place when it arrives

No file says which chunks are there. Each chunk is checked against its digest, so a chunk that a crash has cut is
fetched again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from p2ptrain.causes import writing
from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.run import Digest, Manifest
from p2ptrain.run.digest import Buffer, chunk_digest, chunk_spans
from p2ptrain.state.files import write_whole


class Incoming:
    """The folder of one run's unfinished blobs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def resume(self, digest: Digest) -> tuple[Manifest, memoryview, set[int]] | None:
        """The manifest, the bytes and the indices of the right chunks of a blob; None if nothing of it is here."""
        try:
            manifest = Manifest.from_bytes(self._path(digest, "manifest").read_bytes(), digest)
            data = bytearray(self._path(digest, "part").read_bytes())
        except (OSError, MalformedError):
            return None
        view = memoryview(data[: manifest.size].ljust(manifest.size, b"\0"))
        spans = enumerate(chunk_spans(manifest.size))
        here = {index for index, (start, stop) in spans if chunk_digest(view[start:stop]) == manifest.chunks[index]}
        return manifest, view, here

    def open(self, digest: Digest, manifest: Manifest) -> BinaryIO:
        """Open the file of a blob, in which each chunk is written at its place; raises StorageError if it can't."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(digest, "manifest"), manifest.to_bytes())
            return os.fdopen(os.open(self._path(digest, "part"), os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise self.failed(error) from None

    def failed(self, error: OSError) -> StorageError:
        """The error to raise when a write has failed."""
        return StorageError(f"can't keep what arrives in {self._folder}", *writing(error, "it goes on where it was"))

    def forget(self, digest: Digest) -> None:
        """Delete an unfinished blob: it is kept elsewhere now, or not needed any more."""
        self._path(digest, "manifest").unlink(missing_ok=True)
        self._path(digest, "part").unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Delete all unfinished blobs."""
        for path in self._folder.glob("*"):
            path.unlink(missing_ok=True)

    def _path(self, digest: Digest, ending: str) -> Path:
        return self._folder / f"{digest.hex()}.{ending}"


def write_at(file: BinaryIO, start: int, data: Buffer) -> None:
    """Write all of `data` at this offset; raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file.fileno(), view, start)
        view, start = view[written:], start + written
