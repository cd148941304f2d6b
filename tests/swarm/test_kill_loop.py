"""Peers are killed and stopped again and again, and started again: the run goes on and nothing is lost."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2ptrain.diloco.audit import audit, branch_of
from p2ptrain.run import Digest
from p2ptrain.state import RunFolder
from tests.swarm.lab import HERE, Event, Lab, Peer, Place, write_spec

SECONDS = 180.0


class Crowd:
    """Three peers of one run; whoever is killed is started again in its folder."""

    def __init__(self, lab: Lab, places: Sequence[Place] = (HERE, HERE, HERE), spec: Path | None = None) -> None:
        self._lab, self._places = lab, places
        spec = spec or write_spec(lab.home)
        first = lab.found(spec, fault="steady", place=places[0])
        self.running = [first, *(lab.join(first, fault="steady", place=place) for place in places[1:])]
        self.folders = [peer.folder for peer in self.running]
        self.lives = [[peer] for peer in self.running]
        """The processes of each peer, the latest last."""

    def kill_for(self, seconds: float, chance: random.Random) -> None:
        """Kill or stop one after another."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            victim = chance.randrange(len(self.running))
            self.running[victim].wait_for("training", timeout=90)  # every life gets so far
            time.sleep(chance.uniform(1.0, 4.0))  # the moment of death is the point of this test
            self.running[victim].signal(signal.SIGKILL if chance.random() < 0.7 else signal.SIGTERM)
            self.running[victim].exit_code()
            self._restart(victim)

    def _restart(self, number: int) -> None:
        again = self._lab.found(self.folders[number], fault="steady", place=self._places[number])
        self.running[number] = again
        self.lives[number].append(again)

    def come_together(self, after: float) -> None:
        """Wait until all contribute to the same commits again, after a monotonic time."""
        everyone = {peer.id for peer in self.running}
        for peer in self.running:
            peer.wait_for("commit", lambda event: set(event["contributors"]) == everyone, timeout=90, after=after)
        height = max(max(peer.commits()) for peer in self.running) + 5
        for peer in self.running:
            peer.wait_for_height(height, timeout=60, after=after)

    def stop(self) -> None:
        for peer in self.running:
            peer.signal(signal.SIGINT)
        for peer in self.running:
            peer.wait_for("stopped")
        assert {peer.exit_code() for peer in self.running} == {0}

    def assert_nothing_is_lost(self) -> None:
        """After the end: all are on one branch; what a majority had applied is on it, or in the archive of those who
        had applied it, and counted; the bytes in every folder agree with one another; and the loss fell."""
        kept = [Kept.of(folder) for folder in self.folders]
        assert_one_branch([folder.branch for folder in kept])
        assert_equal_heads_are_equal_states(self.lives)
        assert_what_was_applied_is_kept(self.lives, kept)
        for processes, folder in zip(self.lives, kept, strict=True):
            assert_losses_are_counted(processes, folder)
        assert_the_loss_fell(self.lives)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a peer's ledger holds in the end."""

    branch: dict[int, Digest]
    """The commits below the head, by height."""
    archive: frozenset[Digest]
    """Those of every branch."""
    taken_back: int
    """How many it counted as lost."""

    @classmethod
    def of(cls, folder: Path) -> Kept:
        """What a folder holds, all of which is checked."""
        opened = RunFolder.open(folder, lock=False)
        try:
            bad = [check for check in audit(opened) if not check.good]
            assert not bad, bad
            branch = {commit.height: commit.digest for commit in branch_of(opened, opened.ledger.head)}
            taken_back = sum(rollback.commits for rollback in opened.ledger.rollbacks())
            return cls(branch, frozenset(opened.ledger.commits(0)), taken_back)
        finally:
            opened.close()


def commit_events(peer: Peer) -> list[Event]:
    return [event for event in peer.events if event["event"] == "commit"]


def digest_in(event: Event) -> Digest:
    return Digest(bytes.fromhex(event["commit"]))


def assert_one_branch(branches: Sequence[dict[int, Digest]]) -> None:
    common = set.intersection(*(set(branch) for branch in branches))
    assert common, "the branches have no height in common"
    for height in common:
        assert len({branch[height] for branch in branches}) == 1, f"two branches at height {height}"
    for branch in branches:
        assert sorted(branch) == list(range(min(branch), max(branch) + 1)), "a branch without gaps"


def assert_equal_heads_are_equal_states(lives: Sequence[Sequence[Peer]]) -> None:
    states: dict[str, str] = {}
    for peer in (peer for processes in lives for peer in processes):
        for event in peer.events:
            if event["event"] in ("commit", "training", "stopped"):
                state = states.setdefault(event["commit"], event["state"])
                assert state == event["state"], f"two states after commit {event['commit']}"


def assert_what_was_applied_is_kept(lives: Sequence[Sequence[Peer]], kept: Sequence[Kept]) -> None:
    applied: Counter[Digest] = Counter()
    for processes in lives:
        applied.update({digest_in(event) for peer in processes for event in commit_events(peer)})
    final = {commit for folder in kept for commit in folder.branch.values()}
    for commit, peers in applied.items():
        if 2 * peers > len(kept):
            archived = sum(commit in folder.archive for folder in kept)
            assert commit in final or 2 * archived > len(kept), f"{commit.hex()} is lost"


def assert_losses_are_counted(processes: Sequence[Peer], kept: Kept) -> None:
    """What a process reported and then left for the branch that stayed; one that was killed could not always count."""
    branch, lost = set(kept.branch.values()), set[Digest]()
    for peer in processes:
        if any(event["event"] == "stopped" for event in peer.events):
            heads = [digest_in(event) for event in commit_events(peer)]
            settled = max((index for index, head in enumerate(heads) if head in branch), default=0)
            lost |= set(heads[:settled]) - branch
    assert kept.taken_back >= len(lost)


def assert_the_loss_fell(lives: Sequence[Sequence[Peer]]) -> None:
    events = (event for processes in lives for peer in processes for event in peer.events)
    losses = sorted((event["height"], event["loss"]) for event in events if event["event"] == "evaluation")
    assert losses[-1][1] < losses[0][1] - 0.5


@pytest.mark.long
@pytest.mark.timeout(480)
def test_peers_that_are_killed_for_three_minutes_lose_nothing(lab: Lab) -> None:
    crowd = Crowd(lab)
    crowd.running[0].wait_for_height(4)
    crowd.kill_for(SECONDS, random.Random(0))
    crowd.come_together(after=time.monotonic())
    crowd.stop()
    assert sum(map(len, crowd.lives)) > 12, "the loop killed too few"
    crowd.assert_nothing_is_lost()
