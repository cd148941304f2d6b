"""Snapshots of a one-byte run: the run's base and the newest states. `method.shelf` says how they are kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.method import Shelf
from p2ptrain.run import Digest
from p2ptrain.spsa.position import Position, unpacked
from p2ptrain.spsa.state import Integers, MasterManifest, MasterState
from p2ptrain.state import Blobs, Limits, RunFolder, SnapshotRow

KEPT = 2
"""The newest snapshots stay, so many of them, and the base."""

log = logging.getLogger(__name__)


class Snapshots(Shelf):
    """The snapshots of one run in its folder. Any thread may call."""

    def __init__(self, folder: RunFolder, blobs: Blobs, limits: Limits) -> None:
        super().__init__(folder, blobs)
        self._limits = limits

    def save(self, state: MasterState) -> None:
        """Write a snapshot, offer it to others, and delete old ones.

        Raises:
            StorageError: the disk is full. The snapshots before are untouched.
            LedgerError: a weight has left the range of its integers.
        """
        state.layout.check_range(state.master)
        with self.lock:
            self.put(SnapshotRow(state.digest, state.records, state.manifest.encoded), state.parts)
            self._prune()

    def restore(self, held: Callable[[Position], bool]) -> MasterState | None:
        """After a restart, offer all whole snapshots to others and drop the damaged ones.

        Args:
            held: whether all records of a position are here. They are needed if some have to be taken back later.

        Returns:
            The newest whole snapshot whose records are here; None if there is none.
        """
        newest = None
        for row in self.rows():
            try:
                state = load_state(self._folder, row)
                self.offer(row, (manifest for manifest, _ in state.parts))
                newest = newest or (state if held(state.position) else None)
            except (StorageError, MalformedError) as error:
                log.warning("the snapshot of %d records can't be used: %s", row.height, error.brief)
                self.drop([row])
        return newest

    def keep_only(self, allowed: Callable[[Position], bool]) -> None:
        """Drop the snapshots that hold cut records: a newcomer that started from one could not take them back."""
        with self.lock:
            positions = [(row, unpacked(MasterManifest.decode(row.manifest).position)) for row in self.rows()]
            self.drop([row for row, position in positions if not allowed(position)])

    def _prune(self) -> None:
        rows = self.rows()
        kept = rows if self._limits.archive else [*rows[:KEPT], *rows[KEPT:][-1:]]
        while len(kept) > 1 and not self._fits(kept):
            kept = kept[:-1]  # the base goes first: any other snapshot can be replayed from, too
        self.drop([row for row in rows if row not in kept])
        self.keep_files({digest for row in kept for digest in _parts_of(row)})

    def _fits(self, rows: Sequence[SnapshotRow]) -> bool:
        """Whether these snapshots and the next one are within the volunteer's disk limit."""
        if self._limits.disk is None:
            return True
        return self.bytes_of(digest for row in (rows[0], *rows) for digest in _parts_of(row)) <= self._limits.disk


def _parts_of(row: SnapshotRow) -> list[Digest]:
    return list(MasterManifest.decode(row.manifest).parts)


def load_state(folder: RunFolder, row: SnapshotRow) -> MasterState:
    """Read a snapshot from disk and check it.

    Raises:
        StorageError: a file is missing or damaged.
        MalformedError: the manifest is damaged.
    """

    def part(digest: Digest) -> Integers:
        values = folder.vectors.load(digest, np.int32)
        if values is None:
            raise StorageError(f"{folder.vectors.path(digest)} is missing")
        return values

    return MasterState.assemble(MasterManifest.decode(row.manifest), part)
