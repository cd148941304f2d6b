"""The network between the peers is torn apart for half a minute: both sides go on, and come together again."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.swarm.lab import Lab, Peer, assert_agreement, write_spec
from tests.swarm.namespaces import Network, reason_not
from tests.swarm.test_kill_loop import SECONDS, Crowd, commit_events

PARTED_SECONDS = 30.0
ROLLBACK_DEPTH = 400
"""Heights. The rounds here are short: in half a minute a side makes more than the usual depth of them."""


@pytest.fixture
def network() -> Iterator[Network]:
    """Three machines that reach one another."""
    if reason := reason_not():
        pytest.skip(reason)
    with Network(3) as network:
        yield network


def wait_for_commit_of(peer: Peer, *contributors: Peer, after: float) -> None:
    """`peer` takes in a commit that all of these and nobody else contributed to."""
    ids = {contributor.id for contributor in contributors}
    peer.wait_for("commit", lambda event: set(event["contributors"]) == ids, timeout=25, after=after)


def wait_until_both_sides_go_on(crowd: Crowd) -> None:
    """The first two peers commit, and the third one alone, on branches of their own."""
    cut = time.monotonic()
    first, second, third = crowd.running
    for peer in (first, second):
        wait_for_commit_of(peer, first, second, after=cut)
    wait_for_commit_of(third, third, after=cut)
    height = min(max(first.commits()), max(third.commits()))
    assert first.commits()[height]["commit"] != third.commits()[height]["commit"]


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_partition_of_half_a_minute_heals_and_loses_nothing(network: Network, lab: Lab) -> None:
    crowd = Crowd(lab, network.places, write_spec(lab.home, rollback_depth=ROLLBACK_DEPTH))
    crowd.come_together(after=0.0)
    cut = time.monotonic()
    with network.parted_for(PARTED_SECONDS, {0, 1}, {2}):
        wait_until_both_sides_go_on(crowd)
    crowd.come_together(after=time.monotonic())
    assert_agreement(*crowd.running)
    assert any(event["rolled_back"] for peer in crowd.running for event in commit_events(peer) if event["at"] > cut)
    crowd.stop()
    crowd.assert_nothing_is_lost()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_partition_while_peers_are_killed_for_three_minutes_loses_nothing(network: Network, lab: Lab) -> None:
    chance = random.Random(1)
    crowd = Crowd(lab, network.places, write_spec(lab.home, rollback_depth=ROLLBACK_DEPTH))
    crowd.running[0].wait_for_height(4)
    crowd.kill_for((SECONDS - PARTED_SECONDS) / 2, chance)
    crowd.come_together(after=time.monotonic())
    with network.parted_for(PARTED_SECONDS, {0, 1}, {2}):
        wait_until_both_sides_go_on(crowd)
        crowd.kill_for((SECONDS + PARTED_SECONDS) / 2, chance)
    crowd.come_together(after=time.monotonic())
    crowd.stop()
    assert sum(map(len, crowd.lives)) > 12, "the loop killed too few"
    crowd.assert_nothing_is_lost()
