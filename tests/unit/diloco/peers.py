"""A peer with a run folder and a replica, and no network; ways to damage its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.replica import Replica
from p2ptrain.diloco.state import GlobalState
from p2ptrain.run import NO_DIGEST, Genesis
from p2ptrain.state import NO_LIMITS, Blobs, Limits, RunFolder
from tests.unit.diloco.samples import KEY_OF, PEERS, commit_on, encoded, limited, offer
from tests.unit.diloco.swarm_in_memory import KEYS, spec_with

SHAPES = {"layers.0.w": (300,), "layers.1.w": (200, 2)}
LAYOUT = Layout.of(SHAPES, 2)
DEPTH = 4
SPEC = limited(spec_with(2), rollback_depth=DEPTH)
BASE = GlobalState.initial(LAYOUT.digest, [np.linspace(-1, 1, size, dtype=np.float32) for size in LAYOUT.sizes])
GENESIS = Genesis.found(SPEC, BASE.digest, NO_DIGEST, "tests", KEYS[0])


class Peer:
    """A replica in a run folder, and what its exchange would do with it."""

    def __init__(self, folder: RunFolder, limits: Limits = NO_LIMITS) -> None:
        self.folder, self.blobs, self._limits = folder, Blobs(), limits
        self.replica = Replica(folder, LAYOUT, self.blobs, limits)
        self.states = [BASE]
        self.commits: list[Commit] = []

    def contribute(self, state: GlobalState, seed: int) -> Contribution:
        """Store the bytes of a contribution for the height after `state`."""
        height = state.height + 1
        vector = np.random.default_rng(seed).standard_normal(LAYOUT.sizes[height % 2]).astype(np.float32)
        data = encoded(SPEC, vector)
        part = offer(PEERS[seed % 3], height, data, run=GENESIS.digest).signed(KEY_OF[PEERS[seed % 3]])
        assert self.replica.store_payload(part, data, state)
        return part

    def grow(self, heights: int, seed: int = 0) -> None:
        """Apply so many commits of two contributions each."""
        for _ in range(heights):
            state = self.states[-1]
            parts = [self.contribute(state, 3 * (seed + state.height) + author) for author in range(2)]
            commit = commit_on(state.head, parts, run=GENESIS.digest).signed(KEY_OF[PEERS[0]])
            self.commits.append(commit)
            self.states.append(self.replica.apply(commit).state)
            self.folder.ledger.set_head(commit.digest)

    def restarted(self) -> Peer:
        """The same folder, with nothing in memory."""
        other = Peer(self.folder, self._limits)
        other.states, other.commits = self.states, self.commits
        return other

    @property
    def heights(self) -> list[int]:
        return [height for height, _ in self.replica.snapshots.offered]


@contextmanager
def open_peer(home: Path, limits: Limits = NO_LIMITS) -> Iterator[Peer]:
    folder = RunFolder.create(home, GENESIS, SPEC, PEERS[0])
    try:
        yield Peer(folder, limits)
    finally:
        folder.close()


def same_bits(left: GlobalState, right: GlobalState) -> bool:
    vectors = [(part.theta.raw, part.momentum.raw) for part in left.fragments]
    return left.digest == right.digest and vectors == [(p.theta.raw, p.momentum.raw) for p in right.fragments]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)
