"""Peers are killed and stopped again and again, and started again: the run goes on and nothing is lost."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from p2ptrain.diloco.audit import audit, branch_of
from p2ptrain.run import NO_DIGEST, Digest
from p2ptrain.state import RunFolder
from tests.swarm.lab import LOOPBACK, Lab, Peer, write_spec

SECONDS = 180.0


def restarted(lab: Lab, folder: Path) -> Peer:
    return lab.start("peer", str(folder), "--listen", LOOPBACK, "--threads", "1", fault="steady")


@pytest.mark.long
@pytest.mark.timeout(480)
def test_peers_that_are_killed_for_three_minutes_lose_nothing(lab: Lab) -> None:
    chance = random.Random(0)
    first = lab.found(write_spec(lab.home), fault="steady")
    running = [first, lab.join(first, fault="steady"), lab.join(first, fault="steady")]
    folders = [peer.folder for peer in running]
    lives = [[peer] for peer in running]
    first.wait_for_height(4)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        victim = chance.randrange(3)
        running[victim].wait_for("training", timeout=90)  # every life gets so far
        time.sleep(chance.uniform(1.0, 4.0))  # the moment of death is the point of this test
        running[victim].signal(signal.SIGKILL if chance.random() < 0.7 else signal.SIGTERM)
        running[victim].exit_code()
        running[victim] = restarted(lab, folders[victim])
        lives[victim].append(running[victim])
    for peer in running:
        peer.wait_for("training", timeout=90)
    calm = time.monotonic()
    height = max(max(peer.commits(), default=0) for peer in running)
    for peer in running:
        peer.wait_for_height(height + 5, timeout=90, after=calm)
    for peer in running:
        peer.signal(signal.SIGINT)
    for peer in running:
        peer.wait_for("stopped")
    assert {peer.exit_code() for peer in running} == {0}
    assert sum(map(len, lives)) > 12, "the loop killed too few"

    # What a majority had applied is on the branch that everyone kept, or in the archive of those who had applied it.
    applied: Counter[Digest] = Counter()
    states: dict[str, str] = {}
    for life in lives:
        seen = {event["commit"]: event["state"] for peer in life for event in peer.commits().values()}
        applied.update(Digest(bytes.fromhex(commit)) for commit in seen)
        for commit, state in seen.items():
            assert states.setdefault(commit, state) == state, "equal heads mean equal bytes"
    archives, branches = [], []
    for folder in folders:
        opened = RunFolder.open(folder, lock=False)
        try:
            archives.append(opened.ledger.commits(0))
            head = Digest(opened.ledger.fact("head") or NO_DIGEST)
            branches.append({commit.height: commit.digest for commit in branch_of(opened, head)})
            assert all(check.good for check in audit(opened)), [check for check in audit(opened) if not check.good]
        finally:
            opened.close()
    for height in set(branches[0]) & set(branches[1]) & set(branches[2]):
        assert len({branch[height] for branch in branches}) == 1, f"two branches at height {height}"
    for branch in branches:
        assert sorted(branch) == list(range(min(branch), max(branch) + 1)), "a branch without gaps"
    kept = {commit for branch in branches for commit in branch.values()}
    for commit, peers in applied.items():
        if peers >= 2:
            assert commit in kept or sum(commit in archive for archive in archives) >= 2
    losses = [event for life in lives for peer in life for event in peer.events if event["event"] == "evaluation"]
    by_height = sorted((event["height"], event["loss"]) for event in losses)
    assert by_height[-1][1] < by_height[0][1] - 0.5
