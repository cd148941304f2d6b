"""Peers crash, hang, lie about the time and lag; the others go on, in agreement."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.swarm.lab import Lab, Peer, assert_agreement, wait_until_gone, write_spec

NEXT_COMMIT = 10.0
"""Seconds within which the others' next commit must follow a death."""


def three_peers(lab: Lab, fault: str = "") -> tuple[Peer, Peer, Peer]:
    """Three steady peers without an end; the last one has the fault."""
    first = lab.found(write_spec(lab.home, min_peers=3), fault="steady")
    second = lab.join(first, fault="steady")
    return first, second, lab.join(first, fault=f"steady+{fault}" if fault else "steady")


def assert_others_go_on(*others: Peer) -> None:
    """The next commit within the deadline, and then more of them, alike on all."""
    for peer in others:
        peer.wait_for_next_commit(NEXT_COMMIT)
    height = max(max(peer.commits()) for peer in others) + 4
    for peer in others:
        peer.wait_for_height(height, timeout=30)
    assert_agreement(*others)


@pytest.mark.long
def test_an_ordinary_peer_is_killed(lab: Lab) -> None:
    first, second, third = three_peers(lab)
    first.wait_for_height(5)
    daemon = third.daemon()
    third.signal(signal.SIGKILL)
    assert_others_go_on(first, second)
    assert wait_until_gone(daemon, 5.0), "p2pd outlived its peer"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("die_before_commit", marks=pytest.mark.long),
        "die_after_commit",
        pytest.param("die_while_serving", marks=pytest.mark.long),
    ],
)
def test_a_peer_is_killed_at_the_worst_moment(lab: Lab, fault: str) -> None:
    first, second, third = three_peers(lab, fault)
    assert third.exit_code(timeout=90) == -signal.SIGKILL
    assert_others_go_on(first, second)


@pytest.mark.long
def test_stopped_peers_neither_block_the_others_nor_come_back_different(lab: Lab) -> None:
    """SIGSTOP for 20 s: one peer alone, another one together with its p2pd."""
    first = lab.found(write_spec(lab.home, min_peers=4), fault="steady")
    second, third, fourth = (lab.join(first, fault="steady") for _ in range(3))
    first.wait_for_height(5)
    daemon = fourth.daemon()
    third.signal(signal.SIGSTOP)
    for pid in (fourth.process.pid, daemon):
        os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    assert_others_go_on(first, second)
    first.wait_for("commit", lambda event: event["at"] - stopped >= 20, timeout=30)
    for pid in (daemon, fourth.process.pid, third.process.pid):
        os.kill(pid, signal.SIGCONT)
    back = time.monotonic()
    target = max(first.commits()) + 5
    for peer in (first, second, third, fourth):
        peer.wait_for_height(target, timeout=40)
    assert_agreement(first, second, third, fourth)
    for peer in (third, fourth):
        first.wait_for("commit", lambda event, peer=peer: peer.id in event["contributors"], timeout=40, after=back)


@pytest.mark.long
def test_a_peer_whose_clock_is_an_hour_off_trains_with_the_rest(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, min_peers=3))
    second = lab.join(first)
    third = lab.join(first, fault="clock_off")
    first.wait_for("commit", lambda event: third.id in event["contributors"])
    late = lab.join(third)
    told = first.wait_for("commit", lambda event: late.id in event["contributors"])
    for peer in (second, third, late):
        peer.wait_for_height(told["height"])
    assert_agreement(first, second, third, late)


@pytest.mark.long
def test_two_peers_one_four_times_slower_both_contribute(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, min_peers=2), fault="steady")
    second = lab.join(first, fault="steady+slow")
    first.wait_for_height(20, timeout=90)
    commits = [event for height, event in first.commits().items() if height > 4]
    both = [event for event in commits if len(event["contributors"]) == 2]
    assert len(both) >= len(commits) / 2
    behind = [dict(zip(event["contributors"], event["steps"], strict=True)) for event in both]
    assert all(steps[second.id] < steps[first.id] for steps in behind[2:])
    assert_agreement(first, second)


@pytest.mark.long
def test_a_peer_whose_loss_becomes_nan_says_so_and_leaves_the_others_alone(lab: Lab) -> None:
    first, second, third = three_peers(lab, "nan")
    assert third.exit_code(timeout=90) == 9
    assert "the loss is nan" in third.errors
    assert "Traceback" not in third.errors
    assert_others_go_on(first, second)


@pytest.mark.long
def test_a_peer_that_finds_itself_different_says_so_and_refetches(lab: Lab) -> None:
    first, second, third = three_peers(lab, "flip_a_bit")
    warning = third.wait_for("warning", lambda event: "differs from the others'" in event["text"], timeout=90)
    assert third.wait_for("commit", after=warning["at"])
    after = time.monotonic()
    first.wait_for("commit", lambda event: third.id in event["contributors"], after=after)
    height = max(first.commits()) + 3
    for peer in (first, second, third):
        peer.wait_for_height(height, after=after)
    same = {peer.commits()[height]["state"] for peer in (first, second, third)}
    assert len(same) == 1
