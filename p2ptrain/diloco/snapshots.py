"""A peer's snapshots: states on disk at agreed heights, whose vectors other peers can fetch.

`method.shelf` says how they survive a crash. This module decides which ones stay: those that the deepest rollback of
the spec needs, as far as the volunteer's disk limit allows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Container, Sequence, Set

import numpy as np

from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.state import Fragment, GlobalState, HashedVector, StateManifest
from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.method import AnotherModel, Shelf
from p2ptrain.run import NO_DIGEST, Digest
from p2ptrain.state import Blobs, Limits, RunFolder, SnapshotRow

CONTRIBUTION = "contribution"
"""The purpose of payloads' blobs, under which sent bytes are counted."""

log = logging.getLogger(__name__)


class Snapshots(Shelf):
    """The snapshots of one run in its folder. Any thread may call.

    Args:
        layout: the layout of the model that was built here; None: states of any model are read.
        limits: the most bytes that snapshots and contributions may take, and whether this is an archive.
    """

    def __init__(self, folder: RunFolder, layout: Layout | None, blobs: Blobs, limits: Limits) -> None:
        super().__init__(folder, blobs)
        self._layout, self._limits, self._depth = layout, limits, folder.spec.limits.rollback_depth
        self._warned = False
        self.filing = threading.Lock()
        """Held while a payload is filed and served, or dropped and not served any more. A payload can be offered again
        at the very moment when it is dropped."""
        self._first = 0, NO_DIGEST
        """Height and commit of the snapshot that this peer started from."""

    def begin(self, state: GlobalState, leading: Container[Digest]) -> None:
        """Write the snapshot that a peer starts from, and drop all others except those of the states `leading`.

        A later `save` or `keep_branch` that was still due for the old branch does no harm to it.
        """
        with self.lock:
            self.write(state)
            self._first = state.height, state.commit
            self.drop([row for row in self.rows() if row.state not in leading])
            self.prune()

    def save(self, state: GlobalState) -> None:
        """Write a snapshot, offer it, and drop older ones that nobody needs.

        Raises:
            StorageError: the disk is full. Earlier snapshots are untouched.
        """
        with self.lock:
            if state.height >= self._first[0]:
                self.write(state)
                self.prune()

    def write(self, state: GlobalState) -> None:
        """Write a snapshot and offer it."""
        self.put(_row_of(state), [(vector.manifest, vector.values) for vector in state.vectors])

    def serve(self, state: GlobalState) -> None:
        """Offer a snapshot that is on disk."""
        self.offer(_row_of(state), (vector.manifest for vector in state.vectors))

    def load(self, row: SnapshotRow) -> GlobalState:
        """See `load_state`."""
        return load_state(self._folder, row, self._layout)

    def at(self, commit: Digest) -> GlobalState | None:
        """The snapshot that was taken after a commit; None if there is none or it is damaged."""
        with self.lock:
            for row in self.rows():
                if commit_of(row) == commit:
                    try:
                        return self.load(row)
                    except (StorageError, MalformedError) as error:
                        log.warning("the snapshot of height %d can't be used: %s", row.height, error)
        return None

    def keep_branch(self, branch: Set[Digest]) -> None:
        """After a rollback: drop the snapshots that were taken after commits outside `branch`."""
        with self.lock:
            kept = {*branch, self._first[1]}
            self.drop([row for row in self._dispensable() if commit_of(row) not in kept])
            self.prune()

    def drop_rivals(self, start: GlobalState) -> None:
        """When a peer starts again: drop the other snapshots that are as high as its start or higher.

        A crash between a rollback and `keep_branch` leaves such snapshots of the lost branch. `prune` goes by heights,
        so it would count them for the head's branch, and drop those that this one needs.
        """
        with self.lock:
            self.drop([row for row in self.rows() if row.height >= start.height and row.state != start.digest])

    def prune(self) -> None:
        """Drop the snapshots and contributions that neither the deepest rollback nor the volunteer needs."""
        with self.lock:
            rows = self.rows()
            needed = [rows[index] for index in to_keep([row.height for row in rows], self._depth, self._fits(rows))]
            self.drop([row for row in self._dispensable() if row not in needed])
            kept = self.rows()
            self.keep_files({digest for row in kept for digest in _vectors_named_by(row)})
            if kept and not self._limits.archive:
                with self.filing:
                    for digest in self._ledger.drop_payloads(kept[-1].height):
                        self._blobs.release(digest)

    def _dispensable(self) -> list[SnapshotRow]:
        """The snapshots that may be dropped, newest first; an archive always keeps its oldest one."""
        rows = self.rows()
        return rows[:-1] if self._limits.archive else rows

    def _fits(self, rows: Sequence[SnapshotRow]) -> Callable[[Sequence[int]], bool]:
        """Whether the volunteer's limit has room for these snapshots, the contributions above them and one more
        snapshot."""

        def fits(kept: Sequence[int]) -> bool:
            if self._limits.disk is None:
                return True
            vectors = {digest for index in kept for digest in _vectors_named_by(rows[index])}
            here = self.bytes_of(vectors) + self._ledger.payload_bytes(above=rows[kept[-1]].height)
            need = here + self.bytes_of(_vectors_named_by(rows[0]))
            if need > self._limits.disk and len(kept) == 1 and not self._warned:
                self._warned = True
                text = "the disk limit of %d MB is too small for this run: it needs %d MB with a single snapshot"
                log.warning(text, self._limits.disk // 10**6, -(-need // 10**6))
            return need <= self._limits.disk

        return fits


def to_keep(heights: Sequence[int], depth: int, fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """Which of these snapshots to keep: those within `depth` of the newest, and one below them, so that the deepest
    rollback can be replayed. If they do not fit, the middle ones go first, which only save time; then the oldest one.

    `heights` are given newest first. `fits` says whether the snapshots of these indices (newest first) are within the
    limit. Returns indices into `heights`; the newest is always among them.
    """
    if not heights:
        return []
    within = sum(height > heights[0] - depth for height in heights)
    kept = list(range(len(heights)))[: within + 1]
    while not fits(kept) and len(kept) > 1:
        kept.pop(-2 if len(kept) > 2 else -1)
    return kept


def load_state(folder: RunFolder, row: SnapshotRow, layout: Layout | None) -> GlobalState:
    """Read a snapshot from disk and check it; of any model if `layout` is None.

    Raises:
        AnotherModel: the snapshot belongs to another model.
        StorageError: a file is missing or damaged.
        MalformedError: the manifest is damaged, or a vector has the wrong length.
    """

    def vector(digest: Digest) -> HashedVector:
        values = folder.vectors.load(digest, np.float32)
        if values is None:
            raise StorageError("a snapshot is incomplete", f"{folder.vectors.path(digest)} is missing")
        return HashedVector(values)

    return assemble(StateManifest.decode(row.manifest), layout, vector)


def assemble(manifest: StateManifest, layout: Layout | None, vector: Callable[[Digest], HashedVector]) -> GlobalState:
    """Put a state together from its manifest and its vectors; of any model if `layout` is None.

    Raises:
        AnotherModel: the state belongs to another model.
        MalformedError: a vector has the wrong length.
    """
    if layout is not None:
        described = len(manifest.vectors), manifest.layout, manifest.frozen
        if described != (len(layout.sizes), layout.digest, layout.frozen):
            raise AnotherModel
    pairs = [(vector(theta), vector(momentum)) for theta, momentum in manifest.vectors]
    sizes = layout.sizes if layout is not None else [len(theta.values) for theta, _ in pairs]
    if any(len(part.values) != size for pair, size in zip(pairs, sizes, strict=True) for part in pair):
        raise MalformedError("a state's vectors have the wrong lengths")
    fragments = tuple(Fragment(theta, momentum) for theta, momentum in pairs)
    return GlobalState(manifest.height, manifest.commit, manifest.weight, manifest.layout, fragments, manifest.frozen)


def commit_of(row: SnapshotRow) -> Digest:
    """The commit that a snapshot was taken after."""
    return StateManifest.decode(row.manifest).commit


def _row_of(state: GlobalState) -> SnapshotRow:
    return SnapshotRow(state.digest, state.height, state.manifest.encoded)


def _vectors_named_by(row: SnapshotRow) -> list[Digest]:
    return [digest for pair in StateManifest.decode(row.manifest).vectors for digest in pair]
