"""Snapshots of one-byte SPSA on disk: the run's base and the states at the last marks, checked when they are read.

Files first, then the row that names them; on letting go, the row first: whatever a crash leaves can be loaded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.run import Digest
from p2ptrain.spsa.position import Position, unpacked
from p2ptrain.spsa.state import Integers, MasterManifest, MasterState
from p2ptrain.state import Blobs, Limits, RunFolder, SnapshotRow
from p2ptrain.state.arrivals import SNAPSHOT

KEPT = 2
"""Newest ones that stay, beside the base."""

log = logging.getLogger(__name__)


class Snapshots:
    """Those of one run in its folder. Any thread may call."""

    def __init__(self, folder: RunFolder, blobs: Blobs, limits: Limits) -> None:
        self._folder, self._ledger, self._blobs, self._limits = folder, folder.ledger, blobs, limits
        self._lock = threading.RLock()
        self.offered: tuple[tuple[int, Digest], ...] = ()
        """(records, state) of those on disk, newest first."""

    def save(self, state: MasterState) -> None:
        """Write a snapshot, serve it, and let go of what is older than the last few.

        Raises:
            StorageError: the disk is full; the snapshots before are untouched.
            LedgerError: a weight has left the range of its integers.
        """
        state.layout.check_range(state.master)
        with self._lock:
            for manifest, part in state.parts:
                self._folder.vectors.save(manifest.digest, part)
            self._ledger.add_snapshot(SnapshotRow(state.digest, state.records, state.manifest.encoded))
            self._serve(state)
            self._prune()

    def restore(self, held: Callable[[Position], bool]) -> MasterState | None:
        """After a restart: the newest one that is whole and whose records are here, since they may have to be taken
        back; serves all that are whole, and forgets the others.

        Args:
            held: whether all records of a position are here.
        """
        newest = None
        for row in self._ledger.snapshots():
            try:
                state = self.load(row)
                self._serve(state)
                newest = newest or (state if held(state.position) else None)
            except (StorageError, MalformedError) as error:
                log.warning("the snapshot of %d records can't be used: %s", row.height, error.brief)
                self._drop([row])
        return newest

    def load(self, row: SnapshotRow) -> MasterState:
        """Read a snapshot from disk, checked.

        Raises:
            StorageError, MalformedError: a file is missing or damaged.
        """
        return load_state(self._folder, row)

    def keep_only(self, allowed: Callable[[Position], bool]) -> None:
        """Forget those that hold records which count no more: who starts from them could not take these back."""
        with self._lock:
            rows = self._ledger.snapshots()
            self._drop([row for row in rows if not allowed(unpacked(MasterManifest.decode(row.manifest).position))])

    def _serve(self, state: MasterState) -> None:
        for manifest, _ in state.parts:
            if manifest.digest not in self._blobs:
                self._blobs.hold_source(manifest, self._folder.vectors.source(manifest.digest), SNAPSHOT)
        self._blobs.hold(state.manifest.encoded, SNAPSHOT)
        self._list()

    def _prune(self) -> None:
        rows = self._ledger.snapshots()
        kept = rows if self._limits.archive else [*rows[:KEPT], *rows[KEPT:][-1:]]
        while len(kept) > 1 and not self._fits(kept):
            kept = kept[:-1]  # the base first: the others can be computed from, too
        self._drop([row for row in rows if row not in kept])
        needed = {digest for row in kept for digest in _parts_of(row)}
        for digest in self._folder.vectors.keep_only(needed):
            self._blobs.release(digest)

    def _fits(self, rows: Sequence[SnapshotRow]) -> bool:
        """Whether these and the next one are within the volunteer's limit."""
        if self._limits.disk is None:
            return True
        size = sum(self._folder.vectors.size(digest) for row in (rows[0], *rows) for digest in _parts_of(row))
        return size <= self._limits.disk

    def _drop(self, rows: Sequence[SnapshotRow]) -> None:
        self._ledger.drop_snapshots(row.state for row in rows)
        for row in rows:
            self._blobs.release(row.state)
        self._list()

    def _list(self) -> None:
        self.offered = tuple((row.height, row.state) for row in self._ledger.snapshots())


def _parts_of(row: SnapshotRow) -> list[Digest]:
    return list(MasterManifest.decode(row.manifest).parts)


def load_state(folder: RunFolder, row: SnapshotRow) -> MasterState:
    """Read a snapshot from a folder, checked; raises as `Snapshots.load`."""

    def part(digest: Digest) -> Integers:
        values = folder.vectors.load_integers(digest)
        if values is None:
            raise StorageError(f"{folder.vectors.path(digest)} is missing")
        return values

    return MasterState.assemble(MasterManifest.decode(row.manifest), part)
