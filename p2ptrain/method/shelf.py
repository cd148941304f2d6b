"""A run's snapshots, on disk and offered to other peers, as both methods keep them.

The vectors of a snapshot are files named by their digests. So peers write equal files at equal positions, and a vector
that two snapshots share is stored once. The order of writing makes a crash harmless: a new snapshot's files are written
and synced before the ledger's row that names them, and a dropped snapshot's row is deleted before its files.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence, Set

from p2ptrain.run import Digest, Manifest
from p2ptrain.state import Blobs, RunFolder, SnapshotRow
from p2ptrain.state.arrivals import SNAPSHOT
from p2ptrain.state.vectors import Numbers


class Shelf:
    """The snapshots of one run in its folder. Any thread may call. Each method decides which of them stay."""

    def __init__(self, folder: RunFolder, blobs: Blobs) -> None:
        self._folder, self._ledger, self._blobs = folder, folder.ledger, blobs
        self.lock = threading.RLock()
        """Held while several snapshots are read and some of them are dropped."""
        self.offered: tuple[tuple[int, Digest], ...] = ()
        """(height, digest of the state) of the snapshots on disk, newest first, as heartbeats announce them."""

    def rows(self) -> list[SnapshotRow]:
        """The ledger's rows of snapshots, newest first."""
        return self._ledger.snapshots()

    def put(self, row: SnapshotRow, vectors: Sequence[tuple[Manifest, Numbers]]) -> None:
        """Write a snapshot to disk and offer it. Raises StorageError if the disk is full; others are untouched."""
        with self.lock:
            for manifest, values in vectors:
                self._folder.vectors.save(manifest.digest, values)
            self._ledger.add_snapshot(row)
            self.offer(row, (manifest for manifest, _ in vectors))

    def offer(self, row: SnapshotRow, vectors: Iterable[Manifest]) -> None:
        """Offer a snapshot that is on disk."""
        for manifest in vectors:
            if manifest.digest not in self._blobs:
                self._blobs.hold_source(manifest, self._folder.vectors.source(manifest.digest), SNAPSHOT)
        self._blobs.hold(row.manifest, SNAPSHOT)
        self._list()

    def drop(self, rows: Sequence[SnapshotRow]) -> None:
        """Drop snapshots. The next `keep_files` deletes their files."""
        self._ledger.drop_snapshots(row.state for row in rows)
        for row in rows:
            self._blobs.release(row.state)
        self._list()

    def keep_files(self, needed: Set[Digest]) -> None:
        """Delete the files of vectors that no snapshot on the shelf needs."""
        for digest in self._folder.vectors.keep_only(needed):
            self._blobs.release(digest)

    def bytes_of(self, vectors: Iterable[Digest]) -> int:
        """Bytes of these vectors on disk. A vector that is named twice counts twice."""
        return sum(map(self._folder.vectors.size, vectors))

    def _list(self) -> None:
        self.offered = tuple((row.height, row.state) for row in self.rows())
