"""A peer's snapshots: states on disk at agreed heights, handed out to whoever asks for their vectors.

See `method.shelf` for how they last. Here is decided which ones stay: those from which the deepest rollback that the
spec allows can be replayed, as far as the volunteer's limit lets them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Sequence, Set

import numpy as np

from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.state import Fragment, GlobalState, HashedVector, StateManifest
from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.method import AnotherModel, Shelf
from p2ptrain.run import NO_DIGEST, Digest
from p2ptrain.state import Blobs, Limits, RunFolder, SnapshotRow

CONTRIBUTION = "contribution"
"""What their blobs are for, in the accounts of what was sent."""

log = logging.getLogger(__name__)


class Snapshots(Shelf):
    """Those of one run in its folder. Any thread may call; snapshots are written by one and replayed from by another.

    Args:
        layout: of the model that was built here; None: states of whatever model are read.
        limits: what of older snapshots, and of the contributions that lead on from them, may stay.
    """

    def __init__(self, folder: RunFolder, layout: Layout | None, blobs: Blobs, limits: Limits) -> None:
        super().__init__(folder, blobs)
        self._layout, self._limits, self._depth = layout, limits, folder.spec.limits.rollback_depth
        self._warned = False
        self._first = 0, NO_DIGEST
        """Height and commit of the snapshot that this peer went on from."""

    def begin(self, state: GlobalState, leading: Container[Digest]) -> None:
        """Write the snapshot that a peer goes on from; of the others only those of these states stay.

        What is still due for the branch before, `save` or `keep_branch`, does not get into its way any more.
        """
        with self.lock:
            self.write(state)
            self._first = state.height, state.commit
            self.drop([row for row in self.rows() if row.state not in leading])
            self.prune()

    def save(self, state: GlobalState) -> None:
        """Write a snapshot, serve it, and let go of what is older than the last few.

        Raises:
            StorageError: the disk is full; the snapshots before are untouched.
        """
        with self.lock:
            if state.height >= self._first[0]:
                self.write(state)
                self.prune()

    def write(self, state: GlobalState) -> None:
        """Write a snapshot and offer it."""
        vectors = [(vector.manifest, vector.values) for vector in _vectors_of(state)]
        self.put(_row_of(state), vectors)

    def serve(self, state: GlobalState) -> None:
        """Offer a snapshot that is on disk."""
        self.offer(_row_of(state), (vector.manifest for vector in _vectors_of(state)))

    def load(self, row: SnapshotRow) -> GlobalState:
        """Read a snapshot from disk, checked.

        Raises:
            StorageError: a file is missing or damaged, or the snapshot is of another model.
        """
        return load_state(self._folder, row, self._layout)

    def at(self, commit: Digest) -> GlobalState | None:
        """The snapshot that was taken after a commit, if there is one and it is whole."""
        with self.lock:
            for row in self.rows():
                if commit_of(row) == commit:
                    try:
                        return self.load(row)
                    except (StorageError, MalformedError) as error:
                        log.warning("the snapshot of height %d can't be used: %s", row.height, error)
        return None

    def keep_branch(self, branch: Set[Digest]) -> None:
        """A rollback has left a branch: forget the snapshots that were taken after other commits than these."""
        with self.lock:
            kept = {*branch, self._first[1]}
            self.drop([row for row in self._dispensable() if commit_of(row) not in kept])
            self.prune()

    def prune(self) -> None:
        """Let go of the snapshots and contributions that neither the deepest rollback nor the volunteer needs."""
        with self.lock:
            rows = self.rows()
            needed = [rows[index] for index in to_keep([row.height for row in rows], self._depth, self._fits(rows))]
            self.drop([row for row in self._dispensable() if row not in needed])
            kept = self.rows()
            vectors = {digest for row in kept for digest in _vectors_named_by(row)}
            self.keep_files(vectors)
            if kept and not self._limits.archive:
                for digest in self._ledger.drop_payloads(kept[-1].height):
                    self._blobs.release(digest)

    def _dispensable(self) -> list[SnapshotRow]:
        """Those that may be given up, newest first; an archive keeps its first one for good."""
        rows = self.rows()
        return rows[:-1] if self._limits.archive else rows

    def _fits(self, rows: Sequence[SnapshotRow]) -> Callable[[Sequence[int]], bool]:
        """Whether these snapshots, what leads on from them and the next snapshot are within the volunteer's limit."""

        def fits(kept: Sequence[int]) -> bool:
            if self._limits.disk is None:
                return True
            vectors = {digest for index in kept for digest in _vectors_named_by(rows[index])}
            here = self.bytes_of(vectors) + self._ledger.payload_bytes(above=rows[kept[-1]].height)
            need = here + self.bytes_of(_vectors_named_by(rows[0]))
            if need > self._limits.disk and len(kept) == 1 and not self._warned:
                self._warned = True
                log.warning(
                    "the disk limit of %d MB is too small for this run: it needs %d MB with a single snapshot",
                    self._limits.disk // 10**6,
                    -(-need // 10**6),
                )
            return need <= self._limits.disk

        return fits


def to_keep(heights: Sequence[int], depth: int, fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """Which of these snapshots to keep.

    Those within `depth` of the newest, and one below them from which the deepest rollback can be replayed. If that does
    not fit, first those between the newest and the oldest go, which only save time; then the oldest one.

    Args:
        heights: newest first.
        fits: whether the snapshots of these indices (newest first) are within the limit.

    Returns:
        Indices into `heights`; the newest is always among them.
    """
    if not heights:
        return []
    within = sum(height > heights[0] - depth for height in heights)
    kept = list(range(len(heights)))[: within + 1]
    while not fits(kept) and len(kept) > 1:
        kept.pop(-2 if len(kept) > 2 else -1)
    return kept


def load_state(folder: RunFolder, row: SnapshotRow, layout: Layout | None) -> GlobalState:
    """Read a snapshot, of whatever model if `layout` is None.

    Raises:
        StorageError: a file is missing or damaged, or the snapshot is of another model.
    """

    def vector(digest: Digest) -> HashedVector:
        values = folder.vectors.load(digest, np.float32)
        if values is None:
            raise StorageError("a snapshot is incomplete", f"{folder.vectors.path(digest)} is missing")
        return HashedVector(values)

    return assemble(StateManifest.decode(row.manifest), layout, vector)


def assemble(manifest: StateManifest, layout: Layout | None, vector: Callable[[Digest], HashedVector]) -> GlobalState:
    """Put a state together from its manifest and its vectors; of whatever model if `layout` is None.

    Raises:
        StorageError: it is the state of another model.
        MalformedError: a vector has the wrong length.
    """
    if layout is not None and not _describes(manifest, layout):
        raise AnotherModel
    pairs = [(vector(theta), vector(momentum)) for theta, momentum in manifest.vectors]
    sizes = layout.sizes if layout is not None else [len(theta.values) for theta, _ in pairs]
    if any(len(part.values) != size for pair, size in zip(pairs, sizes, strict=True) for part in pair):
        raise MalformedError("a state's vectors have the wrong lengths")
    fragments = tuple(Fragment(theta, momentum) for theta, momentum in pairs)
    return GlobalState(
        manifest.height,
        manifest.commit,
        manifest.weight,
        manifest.layout,
        fragments,
        manifest.frozen,
    )


def _describes(manifest: StateManifest, layout: Layout) -> bool:
    same_sizes = len(manifest.vectors) == len(layout.sizes)
    return same_sizes and (manifest.layout, manifest.frozen) == (layout.digest, layout.frozen)


def commit_of(row: SnapshotRow) -> Digest:
    """The commit that a snapshot was taken after."""
    return StateManifest.decode(row.manifest).commit


def _row_of(state: GlobalState) -> SnapshotRow:
    return SnapshotRow(state.digest, state.height, state.manifest.encoded)


def _vectors_of(state: GlobalState) -> Iterable[HashedVector]:
    return [vector for part in state.fragments for vector in (part.theta, part.momentum)]


def _vectors_named_by(row: SnapshotRow) -> list[Digest]:
    return [digest for pair in StateManifest.decode(row.manifest).vectors for digest in pair]
