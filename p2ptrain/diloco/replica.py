"""This peer's copy of a run: the states it can compute, the payloads it holds and the snapshots it serves.

Blocking, and without a thread of its own: the exchange calls it from its worker thread. The rule behind all of it is
the design's one idea, a state is a pure function of a snapshot and the commits above it: `state_at`.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from p2ptrain.diloco.chain import KEPT_HISTORY, Commit, Contribution
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.outer import Applied, apply_commit, decode_payload
from p2ptrain.diloco.schedule import fragment_of
from p2ptrain.diloco.state import Fragment, GlobalState, HashedVector, StateManifest
from p2ptrain.errors import LedgerError, MalformedError, StorageError
from p2ptrain.run import NO_DIGEST, Digest, Manifest, digest_of
from p2ptrain.state import Blobs, Ledger, RunFolder, SnapshotRow

CONTRIBUTION, SNAPSHOT = "contribution", "snapshot"
"""What blobs are for, in the accounts of bytes sent."""

log = logging.getLogger(__name__)


class StateGone(LedgerError):
    """A state lies too far back to be computed here."""


@dataclass(frozen=True, slots=True)
class LedgerSource:
    """A payload's bytes, read from the ledger when somebody asks for them."""

    ledger: Ledger
    digest: Digest

    def read(self, start: int, stop: int) -> bytes:
        return self.ledger.payload_part(self.digest, start, stop)


@dataclass(frozen=True)
class Position:
    """Where a peer can start: a state, the commits below it (oldest first) and those above it that are known."""

    state: GlobalState
    history: tuple[Commit, ...] = ()
    above: tuple[Commit, ...] = ()


class Replica:
    """States, payloads and snapshots of one run on this machine."""

    def __init__(self, folder: RunFolder, layout: Layout, blobs: Blobs) -> None:
        self._folder, self._layout, self._blobs = folder, layout, blobs
        self._spec, self._ledger = folder.spec, folder.ledger
        self._recent: OrderedDict[Digest, GlobalState] = OrderedDict()
        self._lock = threading.RLock()  # snapshots are written by one thread and replayed from by another
        self.snapshots: tuple[tuple[int, Digest], ...] = ()
        """(height, state digest) of the snapshots that are served, newest first."""

    # States --------------------------------------------------------------------------------------------------------

    def apply(self, commit: Commit) -> Applied:
        """Compute and remember the state after a commit whose payloads are all here.

        Raises:
            LedgerError: the commit was made on another state.
            StateGone: its parent's state can't be computed any more.
        """
        parent = self.state_at(Digest(commit.parent))
        payloads = {Digest(part.payload): self._payload(part) for part in commit.contributions}
        result = apply_commit(parent, commit, payloads, self._spec)
        self._remember(result.state)
        self._ledger.add_commit(commit.digest, commit.height, Digest(commit.parent), commit.encoded)
        return result

    def state_at(self, commit: Digest) -> GlobalState:
        """The state after a commit: remembered, or replayed from the nearest state below it.

        Raises:
            StateGone: no snapshot below it is left, or payloads above that are gone.
        """
        replay: list[Commit] = []
        while (state := self._recent.get(commit) or self._load_at(commit)) is None:
            record = self._ledger.commit(commit)
            if record is None:
                raise StateGone("a state can't be computed", "no snapshot below it is left")
            replay.append(Commit.decode(record))
            commit = Digest(replay[-1].parent)
        for step in reversed(replay):
            payloads = {Digest(part.payload): self._payload(part) for part in step.contributions}
            state = apply_commit(state, step, payloads, self._spec).state
            self._remember(state)
        return state

    def _load_at(self, commit: Digest) -> GlobalState | None:
        """The snapshot that was taken after a commit, if there is one."""
        with self._lock:
            for row in self._ledger.snapshots():
                if _commit_of(row) == commit:
                    self._remember(state := self.load(row))
                    return state
        return None

    def set_head(self, commit: Digest) -> None:
        """Note where the head is, for the next start and for exports."""
        self._ledger.set_fact("head", commit)

    def _remember(self, state: GlobalState) -> None:
        # One cycle of fragments and a little more: each of these states has one fragment of its own.
        self._recent[state.commit] = state
        self._recent.move_to_end(state.commit)
        while len(self._recent) > self._spec.method.fragments + 2:
            self._recent.popitem(last=False)

    # Payloads ------------------------------------------------------------------------------------------------------

    def store_payload(self, contribution: Contribution, data: bytes | bytearray, state: GlobalState) -> bool:
        """Keep and serve a contribution's bytes. False if they do not decode: then they count for nothing."""
        digest = Digest(contribution.payload)
        self._ledger.add_payload(digest, contribution.height, data)
        self._blobs.hold_source(Manifest.of(data), LedgerSource(self._ledger, digest), CONTRIBUTION)
        fragment = state.fragments[fragment_of(contribution.height, len(state.fragments))]
        try:
            decode_payload(bytes(data), fragment, self._spec)
        except MalformedError as error:
            log.warning("the contribution of %s for height %d is unusable: %s", contribution.author,
                        contribution.height, error.what)  # fmt: skip
            return False
        return True

    def _payload(self, contribution: Contribution) -> bytes:
        data = self._ledger.payload(Digest(contribution.payload))
        if data is None or digest_of(data) != contribution.payload:
            what = "gone" if data is None else "damaged"
            raise StateGone(
                "a state can't be computed", f"the bytes of a contribution for height {contribution.height} are {what}"
            )
        return data

    # Snapshots -----------------------------------------------------------------------------------------------------

    def save(self, state: GlobalState) -> None:
        """Write a snapshot, serve it, and let go of what is older than the last few.

        Raises:
            StorageError: the disk is full; the snapshots before are untouched.
        """
        with self._lock:
            self._write(state)
            self._prune()

    def _write(self, state: GlobalState) -> None:
        vectors = self._folder.vectors
        for vector in _vectors_of(state):
            vectors.save(vector.digest, vector.values)
        self._ledger.add_snapshot(SnapshotRow(state.digest, state.height, state.manifest.encoded))
        for vector in _vectors_of(state):
            self._blobs.hold_source(vector.manifest, vectors.source(vector.digest), SNAPSHOT)
        self._blobs.hold(state.manifest.encoded, SNAPSHOT)

    def serve_snapshots(self) -> None:
        """After a restart: offer the snapshots on disk again. Call `load` first: it checks them."""
        for row in self._ledger.snapshots():
            manifest = StateManifest.decode(row.manifest)
            for digest in (Digest(digest) for pair in manifest.vectors for digest in pair):
                values = self._folder.vectors.load(digest) if digest not in self._blobs else None
                if values is not None:
                    vector = HashedVector(values)
                    self._blobs.hold_source(vector.manifest, self._folder.vectors.source(digest), SNAPSHOT)
            self._blobs.hold(row.manifest, SNAPSHOT)
        for digest in self._ledger.payload_digests():
            data = self._ledger.payload(digest) or b""
            self._blobs.hold_source(Manifest.of(data), LedgerSource(self._ledger, digest), CONTRIBUTION)
        self._list_snapshots()

    def load(self, row: SnapshotRow) -> GlobalState:
        """Read a snapshot from disk, checked.

        Raises:
            StorageError: a file is missing or damaged, or the snapshot is of another model.
        """
        manifest = StateManifest.decode(row.manifest)
        if digest_of(row.manifest) != row.state:
            raise StorageError("a snapshot's manifest is damaged", row.state.hex()[:12], "move the run folder away")
        return assemble(manifest, self._layout, self._load_vector)

    def _load_vector(self, digest: Digest) -> HashedVector:
        values = self._folder.vectors.load(digest)
        if values is None:
            raise StorageError("a snapshot is incomplete", f"the vector {digest.hex()[:12]} is missing")
        return HashedVector(values)

    def keep_branch(self, branch: Container[Digest]) -> None:
        """A rollback has left a branch: forget the snapshots that were taken after other commits than these."""
        with self._lock:
            self._drop([row for row in self._ledger.snapshots() if _commit_of(row) not in branch])
            self._prune()

    def _drop(self, rows: Sequence[SnapshotRow]) -> None:
        self._ledger.drop_snapshots(row.state for row in rows)
        for row in rows:
            self._blobs.release(row.state)

    def _prune(self) -> None:
        rows = self._ledger.snapshots()
        horizon = rows[0].height - self._spec.limits.rollback_depth if rows else 0
        count = sum(row.height > horizon for row in rows) + 1  # and one to replay from, for the deepest rollback
        kept = rows[:count]
        self._drop(rows[count:])
        needed = {Digest(d) for row in kept for pair in StateManifest.decode(row.manifest).vectors for d in pair}
        for digest in self._folder.vectors.keep_only(needed):
            self._blobs.release(digest)
        if kept:
            for digest in self._ledger.drop_payloads(kept[-1].height):
                self._blobs.release(digest)
        self._list_snapshots()

    def _list_snapshots(self) -> None:
        self.snapshots = tuple((row.height, row.state) for row in self._ledger.snapshots())

    # Starting ------------------------------------------------------------------------------------------------------

    def begin(self, position: Position) -> None:
        """Start from a state that was made or fetched: save it, and the commits around it. Snapshots of any other
        branch are forgotten."""
        for commit in (*position.history, *position.above):
            self._ledger.add_commit(commit.digest, commit.height, Digest(commit.parent), commit.encoded)
        self._remember(position.state)
        with self._lock:
            self._write(position.state)
            self.set_head(position.state.commit)
            self.keep_branch({NO_DIGEST, position.state.commit, *(commit.digest for commit in position.history)})

    def restore(self) -> Position | None:
        """Where this peer was when it stopped: the newest snapshot on the head's branch that is whole, and the commits
        around it.

        None if the folder holds no usable snapshot: then the peer joins like a newcomer.
        """
        newest: GlobalState | None = None
        rows = self._ledger.snapshots()
        branch = self._branch_of_head(rows[-1].height if rows else 0)
        for row in sorted(rows, key=lambda row: _commit_of(row) not in branch):
            try:
                state = self.load(row)
                newest = newest or state
            except StorageError as error:
                log.warning("a snapshot of height %d can't be used: %s", row.height, error)
                self._ledger.drop_snapshots([row.state])
        if newest is None:
            return None
        self._remember(newest)
        self.serve_snapshots()
        commits = [Commit.decode(record) for record in self._ledger.commits(newest.height - KEPT_HISTORY).values()]
        history = _branch_below(newest, commits)
        return Position(newest, tuple(history), tuple(c for c in commits if c.height > newest.height))

    def _branch_of_head(self, lowest: int) -> set[Digest]:
        """The commits from the head that was noted last down to a height."""
        commit = Digest(self._ledger.fact("head") or NO_DIGEST)
        branch = {NO_DIGEST, commit}
        while (record := self._ledger.commit(commit)) is not None and Commit.decode(record).height > lowest:
            commit = Digest(Commit.decode(record).parent)
            branch.add(commit)
        return branch


def assemble(manifest: StateManifest, layout: Layout, vector: Callable[[Digest], HashedVector]) -> GlobalState:
    """Put a state together from its manifest and its vectors.

    Raises:
        StorageError: it is the state of another model.
        MalformedError: a vector has the wrong length.
    """
    if manifest.layout != layout.digest or len(manifest.vectors) != len(layout.sizes):
        raise StorageError(
            "the run's state is of another model",
            "names or shapes of the parameters differ from the model that was built here",
            "build the model that the run's spec describes, with the same versions of torch and transformers",
        )
    pairs = [(vector(Digest(theta)), vector(Digest(momentum))) for theta, momentum in manifest.vectors]
    if any(len(part.values) != size for pair, size in zip(pairs, layout.sizes, strict=True) for part in pair):
        raise MalformedError("a state's vectors have the wrong lengths")
    fragments = tuple(Fragment(theta, momentum) for theta, momentum in pairs)
    return GlobalState(manifest.height, Digest(manifest.commit), manifest.weight, layout.digest, fragments)


def _vectors_of(state: GlobalState) -> list[HashedVector]:
    return [vector for part in state.fragments for vector in (part.theta, part.momentum)]


def _commit_of(row: SnapshotRow) -> Digest:
    return Digest(StateManifest.decode(row.manifest).commit)


def _branch_below(state: GlobalState, commits: Sequence[Commit]) -> list[Commit]:
    """The commits up to and with the state's own, oldest first, as far as they are known."""
    by_digest = {commit.digest: commit for commit in commits}
    branch: list[Commit] = []
    at = state.commit
    while at != NO_DIGEST and at in by_digest and len(branch) < KEPT_HISTORY:
        branch.append(by_digest[at])
        at = Digest(by_digest[at].parent)
    return branch[::-1]
