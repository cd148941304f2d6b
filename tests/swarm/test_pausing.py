"""A peer that pauses keeps nobody waiting, follows the others meanwhile, and comes back."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.swarm import one_byte
from tests.swarm.lab import Lab, Peer, assert_agreement, write_spec


def status_lines(peer: Peer, home: Path) -> dict[str, str]:
    """What an observer is shown of each peer, by its id."""
    command = [sys.executable, "-m", "p2ptrain", "status", peer.invite]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=home, timeout=120).stdout
    return {line.split()[0]: line for line in shown.splitlines()}


def pause(peer: Peer, lab: Lab) -> float:
    """Others use its machine from now on; returns when it has made way."""
    (lab.home / "others-work").touch()
    told = peer.wait_for("paused", timeout=60)
    assert (told["reason"], told["until"]) == ("others work", None)
    return float(told["at"])


def go_on(peer: Peer, lab: Lab) -> float:
    (lab.home / "others-work").unlink()
    return float(peer.wait_for("resumed", timeout=60)["at"])


@pytest.mark.long
def test_rounds_go_on_without_a_peer_that_pauses_and_with_it_afterwards(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home), fault="steady")
    pausing = lab.join(first, "--name", "makes way", fault="steady+make_way")
    pausing.wait_for("commit", lambda event: pausing.id in event["contributors"])
    since = pause(pausing, lab)
    for height in (4, 8):  # what it had contributed before may still count in the first ones
        first.wait_for_height(max(pausing.commits()) + height, after=since)
    alone = first.wait_for("commit", lambda event: event["contributors"] == [first.id], after=since)
    followed = pausing.wait_for_height(alone["height"], after=since)
    assert pausing.commits()[alone["height"]]["state"] == first.commits()[alone["height"]]["state"], followed
    assert not [event for event in pausing.events if event["event"] == "progress" and event["at"] > since]
    again = go_on(pausing, lab)
    first.wait_for("commit", lambda event: pausing.id in event["contributors"], after=again)
    assert_agreement(first, pausing)


@pytest.mark.long
def test_marks_are_reached_while_a_peer_pauses_and_status_shows_it(lab: Lab) -> None:
    first = lab.found(one_byte.write_spec(lab.home), fault="steady")
    second = lab.join(first, fault="steady")
    pausing = lab.join(first, "--name", "makes way", "--max-up", "80Mbit", fault="steady+make_way")
    one_byte.wait_for_common_mark(first, second, pausing, timeout=120)
    since = pause(pausing, lab)
    one_byte.wait_for_common_mark(first, second, pausing, after=since + 1, timeout=120)
    deadline = time.monotonic() + 60  # a record in the directory is renewed every 20 s
    while "phase=paused" not in (line := status_lines(first, lab.home)[pausing.id]):
        assert time.monotonic() < deadline, line
    assert "name='makes way'" in line
    assert "limit=↑80Mbit/s" in line
    again = go_on(pausing, lab)
    pausing.wait_for("progress", after=again)
    one_byte.wait_for_common_mark(first, second, pausing, after=again, timeout=120)
