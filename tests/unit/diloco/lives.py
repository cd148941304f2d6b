"""What a peer lives through on one disk: commits, rival branches, fetched states, crashes and power losses."""

from __future__ import annotations

import contextlib
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from p2ptrain.diloco.audit import audit
from p2ptrain.diloco.chain import Chain, Commit, Contribution, Verdict
from p2ptrain.diloco.outer import apply_commit
from p2ptrain.diloco.replica import Replica, StartingPoint
from p2ptrain.diloco.round import RECENT_COMMITS
from p2ptrain.diloco.schedule import fragment_of
from p2ptrain.diloco.state import GlobalState
from p2ptrain.run import NO_DIGEST, Digest, PeerId
from p2ptrain.run.head import Head
from p2ptrain.state import Blobs, RunFolder
from tests.unit.diloco.crashes import Crash, Disk, Machine
from tests.unit.diloco.peers import BASE, DEPTH, LAYOUT, SPEC, same_bits
from tests.unit.diloco.peers import GENESIS as ANY_GENESIS
from tests.unit.diloco.samples import KEY_OF, PEERS, commit_on, encoded, offer

GENESIS = ANY_GENESIS.model_copy(update={"nonce": bytes(16)}).signed(KEY_OF[PeerId(ANY_GENESIS.author)])
"""The same in every process, and so is everything that follows from it."""
ME = PEERS[0]
FRAGMENTS = SPEC.method.fragments
LIGHT, HEAVY = 100, 1000
"""Tokens behind contributions."""


class Swarm:
    """What all peers together know: every commit that was ever made, the state after it and the bytes behind it."""

    def __init__(self) -> None:
        self.states: dict[Digest, GlobalState] = {NO_DIGEST: BASE}
        self.commits: dict[Digest, Commit] = {}
        self.payloads: dict[Digest, bytes] = {}

    def extend(self, parent: GlobalState, contributors: int = 2, tokens: int = LIGHT) -> GlobalState:
        """The state after a new commit on this one."""
        seed = len(self.commits)
        parts = [self._contribution(parent, author, tokens, seed) for author in PEERS[:contributors]]
        leader = PEERS[seed % len(PEERS)]
        commit = commit_on(parent.head, parts, seed, leader, GENESIS.digest).signed(KEY_OF[leader])
        state = apply_commit(parent, commit, self.payloads, SPEC).state
        self.commits[commit.digest], self.states[commit.digest] = commit, state
        return state

    def _contribution(self, parent: GlobalState, author: Any, tokens: int, seed: int) -> Contribution:
        height = parent.height + 1
        size = LAYOUT.sizes[fragment_of(height, FRAGMENTS)]
        data = encoded(SPEC, np.random.default_rng([seed, PEERS.index(author)]).standard_normal(size, dtype=np.float32))
        branch = {commit.height: commit.digest for commit in self.branch(parent)}
        base = branch.get(height - FRAGMENTS, NO_DIGEST)
        part = offer(author, height, data, base=base, tokens=tokens, run=GENESIS.digest).signed(KEY_OF[author])
        self.payloads[Digest(part.payload)] = data
        return part

    def branch(self, tip: GlobalState) -> list[Commit]:
        """The commits down from a state to the first, newest first."""
        found, at = [], tip.commit
        while at != NO_DIGEST:
            found.append(self.commits[at])
            at = Digest(found[-1].parent)
        return found

    def below(self, tip: GlobalState, heights: int) -> GlobalState:
        commit = ([*(c.digest for c in self.branch(tip)), NO_DIGEST])[heights]
        return self.states[commit]


# What a peer does, in words ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grow:
    """A round: contributions arrive, a commit is applied; a snapshot may be due."""

    contributors: int = 2
    save: bool = False


@dataclass(frozen=True)
class Rival:
    """Another branch turns up; it is the heavier one, with fewer commits or with more."""

    depth: int
    short: bool = True
    save: bool = False


@dataclass(frozen=True)
class Fetch:
    """The others are on another branch, or far ahead: their snapshot is fetched, and the commits above it."""

    back: int
    ahead: int
    above: int = 0


Deed = Grow | Rival | Fetch
booleans = st.booleans()
deeds: st.SearchStrategy[Deed] = st.one_of(
    st.builds(Grow, st.integers(0, 2), booleans),
    st.builds(Rival, st.integers(1, DEPTH), booleans, booleans),
    st.builds(Fetch, st.integers(0, DEPTH), st.integers(1, 2 * DEPTH), st.integers(0, 2)),
)


# The peer ----------------------------------------------------------------------------------------------------------


@dataclass
class Known:
    """What the folder must be able to give back, as far as the peer was told that it is there."""

    heads: set[Digest] = field(default_factory=lambda: {NO_DIGEST})
    """The head that was noted last, and the one that is being noted."""
    saved: set[Digest] = field(default_factory=set)
    """Snapshots, by commit, that were written and not given up."""
    beginning: Digest | None = None
    """Where the peer was about to start from."""
    began: bool = False

    def starts_from(self, state: GlobalState, swarm: Swarm) -> None:
        """Snapshots of other branches that are as high or higher are given up."""
        self.beginning = None
        self.saved = {commit for commit in self.saved if swarm.states[commit].height < state.height} | {state.commit}


class Life:
    """A peer from its start to its end, as its exchange would lead it, on the worker's, the writer's and a fetching
    thread."""

    def __init__(self, swarm: Swarm, known: Known, folder: RunFolder, machine: Machine) -> None:
        self._swarm, self._known, self._folder = swarm, known, folder
        self._threads = machine.threads
        self.blobs = Blobs()
        self.replica = Replica(folder, LAYOUT, self.blobs)
        self._due: deque[Callable[[], None]] = deque()
        self._wanted: deque[Digest] = deque()
        self._ended = False
        self.chain: Chain

    def live(self, plan: Sequence[Deed]) -> None:
        self._threads.run(lambda: self._work(plan), self._write, self._save_what_arrives)

    # The worker's thread, and the network's decisions

    def _work(self, plan: Sequence[Deed]) -> None:
        self.start()
        for deed in plan:
            match deed:
                case Grow():
                    self._take(self._swarm.extend(self.state, deed.contributors), deed.save)
                case Rival():
                    self._follow(deed)
                case Fetch():
                    self._fetch(deed)
        self._ended = True

    def start(self) -> None:
        position = self.replica.restore()
        if position is None:
            assert not self._known.began, "what was saved can't be loaded"
            position = StartingPoint(BASE)
            self._begin(position)
        else:
            self._known.starts_from(position.state, self._swarm)
        self._lead_on_from(position)

    def _begin(self, position: StartingPoint) -> None:
        known, commit = self._known, position.state.commit
        known.beginning = commit
        known.heads.add(commit)
        self.replica.begin(position)
        known.beginning, known.began, known.heads = None, True, {commit}
        known.saved = {commit}

    def _lead_on_from(self, position: StartingPoint) -> None:
        self.chain = Chain(position.state.head, FRAGMENTS, position.history)
        for commit in position.above:
            self._hear(commit)

    @property
    def state(self) -> GlobalState:
        return self._swarm.states[self.chain.head.commit]

    def _take(self, state: GlobalState, save: bool = False) -> None:
        self._hear(self._swarm.commits[state.commit], save)

    def _hear(self, commit: Commit, save: bool = False) -> None:
        if self.chain.add(commit) is not Verdict.ADDED:
            return
        while (ready := next(self.chain.ready(), None)) is not None:
            self._apply(ready, save)

    def _apply(self, commit: Commit, save: bool) -> None:
        for part in commit.contributions:
            if Digest(part.payload) not in self.blobs:
                self.replica.store_payload(part, self._swarm.payloads[Digest(part.payload)], self.state)
        state = self.replica.apply(commit).state
        assert state.digest == self._swarm.states[commit.digest].digest
        old = self.chain.head
        if self.chain.applied(state.head):
            self._adopt(old, state, save)

    def _adopt(self, old: Head, state: GlobalState, save: bool) -> None:
        chain = self.chain
        if self._swarm.commits[state.commit].parent != old.commit:
            branch = {commit.digest for commit in chain.back_from(state.commit)} | {chain.root.commit, NO_DIGEST}
            self._due.append(lambda: self._keep_branch(branch))
        if save:
            self._due.append(lambda: self._save(state))
        self._known.heads.add(state.commit)
        self._folder.ledger.set_head(state.commit)
        self._known.heads = {state.commit}
        chain.forget_below(state.height - DEPTH)

    def _follow(self, rival: Rival) -> None:
        depth = min(rival.depth, self.chain.head.height - self.chain.root.height)
        state = self._swarm.below(self.state, depth)
        for _ in range(1 if rival.short else depth + 1):
            state = self._swarm.extend(state, tokens=HEAVY)
            self._take(state, rival.save)

    def _fetch(self, fetch: Fetch) -> None:
        back = min(fetch.back, self.chain.head.height - self.chain.root.height)
        state = self._swarm.below(self.state, back)
        for _ in range(fetch.ahead):
            state = self._swarm.extend(state, tokens=HEAVY)
        history = self._swarm.branch(state)[: FRAGMENTS + RECENT_COMMITS][::-1]
        tip, above = state, []
        for _ in range(fetch.above):
            tip = self._swarm.extend(tip, tokens=HEAVY)
            above.append(self._swarm.commits[tip.commit])
        self._wanted.append(state.commit)
        self._threads.wait_until(lambda: not self._wanted)
        position = StartingPoint(state, tuple(history), tuple(above))
        self._begin(position)
        branch = {NO_DIGEST, *(digest for commit in history for digest in (commit.digest, Digest(commit.parent)))}
        self._due.append(lambda: self._keep_branch(branch))
        self._lead_on_from(position)

    # The writer's thread

    def _write(self) -> None:
        while not (self._ended and not self._due):
            self._threads.wait_until(lambda: bool(self._due) or self._ended)
            if self._due:
                self._due.popleft()()

    def _save(self, state: GlobalState) -> None:
        self.replica.snapshots.save(state)
        self._known.saved.add(state.commit)

    def _keep_branch(self, branch: set[Digest]) -> None:
        self._known.saved &= branch
        self.replica.snapshots.keep_branch(branch)

    # The thread that saves what arrives

    def _save_what_arrives(self) -> None:
        while not self._ended:
            self._threads.wait_until(lambda: bool(self._wanted) or self._ended)
            if self._wanted:
                state = self._swarm.states[self._wanted[0]]
                for part in state.fragments:
                    for vector in (part.theta, part.momentum):
                        self._folder.vectors.save(vector.digest, vector.values)
                self._wanted.popleft()


@dataclass
class Story:
    """One peer's lives in one folder."""

    disk: Disk
    swarm: Swarm = field(default_factory=Swarm)
    known: Known = field(default_factory=Known)

    def live(self, plan: Sequence[Deed], dies_at: int | None = None, turns: Collection[int] = ()) -> Machine:
        """One life: the folder is made if it is not there, as when joining again."""
        machine = Machine(self.disk, dies_at, turns)
        with machine, contextlib.suppress(Crash):
            folder = RunFolder.create(self.disk.folder, GENESIS, SPEC, ME)
            try:
                Life(self.swarm, self.known, folder, machine).live(plan)
            finally:
                assert folder._lock is not None
                folder._lock.release()  # the machine closes the ledger
        return machine

    def check(self) -> None:
        """What is in the folder, and what the next start makes of it."""
        folder = RunFolder.create(self.disk.folder, GENESIS, SPEC, ME)
        try:
            self._check_agreement(folder)
            position = Replica(folder, LAYOUT, Blobs()).restore()
            if position is None:
                assert not self.known.began, "what was saved can't be loaded"
            else:
                self._check_position(position)
                self._check_agreement(folder, restored=True)
                self.known.starts_from(position.state, self.swarm)
        finally:
            folder.close()

    def _check_agreement(self, folder: RunFolder, restored: bool = False) -> None:
        bad = [check for check in audit(folder) if not check.good]
        if not restored and (not self.known.began or self.known.beginning):  # its head is noted last
            bad = [check for check in bad if "no whole snapshot lies below the head" not in check.found]
        assert not bad, bad

    def _check_position(self, position: StartingPoint) -> None:
        state = position.state
        assert same_bits(state, self.swarm.states[state.commit])
        below = self.swarm.branch(state)[: len(position.history)][::-1]
        assert position.history == tuple(below)
        assert len(position.history) >= min(state.height, FRAGMENTS)
        assert state.commit == self.known.beginning or self._is_new_enough(state)

    def _is_new_enough(self, state: GlobalState) -> bool:
        """On a branch whose head was noted, and no older than what was saved of that."""
        for head in self.known.heads:
            branch = {NO_DIGEST, *(commit.digest for commit in self.swarm.branch(self.swarm.states[head]))}
            saved = [self.swarm.states[commit].height for commit in self.known.saved & branch]
            if state.commit in branch and state.height >= max(saved, default=0):
                return True
        return False


@contextlib.contextmanager
def a_story() -> Iterator[Story]:
    fast = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=fast if fast.is_dir() else None) as home:
        disk = Disk(Path(home) / "disk", Path(home) / "kept")
        disk.folder.mkdir()
        disk.kept.mkdir()
        yield Story(disk)
