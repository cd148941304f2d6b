"""What a volunteer allows holds on the wire, and the others train on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.swarm.lab import REPOSITORY, Lab, Peer, Place, assert_agreement, write_spec
from tests.swarm.namespaces import Network, reason_not

SECONDS = 60.0
CAP = 5e6 / 8
"""Bytes per second: 5 Mbit."""


@pytest.fixture
def network() -> Iterator[Network]:
    """Three machines that reach one another."""
    if reason := reason_not():
        pytest.skip(reason)
    with Network(3) as network:
        yield network


def large_spec(lab: Lab) -> Path:
    """A model of a million parameters, and short rounds: more to send than any home's line carries."""
    path = write_spec(lab.home, inner_steps=4, codec="fp32", min_peers=3)
    text = path.read_text().replace("hidden_size = 32", "hidden_size = 192").replace("_size = 64", "_size = 512")
    path.write_text(text)
    return path


def sent_by(place: Place) -> int:
    """Bytes that have left the machine's one interface."""
    command = [*place.prefix, "cat", "/sys/class/net/eth0/statistics/tx_bytes"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(place: Place, seconds: float) -> float:
    """Bytes per second, over so long."""
    before, began = sent_by(place), time.monotonic()
    time.sleep(seconds)
    return (sent_by(place) - before) / (time.monotonic() - began)


def status(peer: Peer, place: Place, home: Path) -> dict[str, str]:
    """What an observer on that machine is shown of each peer, by its id."""
    ended = subprocess.run(
        [*place.prefix, sys.executable, "-m", "p2ptrain", "status", peer.invite],
        capture_output=True,
        text=True,
        check=True,
        cwd=home,
        timeout=180,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HF_HUB_OFFLINE": "1"},
    )
    return {line.split()[0]: line for line in ended.stdout.splitlines()}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_limit_holds_for_everything_on_the_wire_while_training_goes_on(network: Network, lab: Lab) -> None:
    """Gossip that is passed on, encryption and headers included; the interface's counters are the judge. Three peers
    want to exchange several times as much."""
    small = ("--batch-size", "1")
    first = lab.found(large_spec(lab), *small, place=network.places[0])
    first.wait_for("started", timeout=200)
    limited = lab.join(first, *small, "--max-up", "5Mbit", "--name", "slow line", place=network.places[1])
    third = lab.join(first, *small, place=network.places[2])
    for peer in (first, limited, third):
        peer.wait_for("training", timeout=200)
    limited.wait_for_height(2, timeout=120)
    began = time.monotonic()
    sent = measure(network.places[1], SECONDS)
    assert sent <= 1.1 * CAP, f"{sent * 8 / 1e6:.2f} Mbit/s"
    assert sent > 0.5 * CAP, "nothing was limited"
    assert not [event for event in limited.events if event["event"] == "warning" and "allow" in event["text"]]
    for peer in (first, third):
        peer.wait_for("commit", timeout=60, after=began)
    height = max(first.commits())
    limited.wait_for("progress", timeout=60, after=began)
    limited.wait_for_height(height, timeout=200, after=began)
    assert_agreement(first, limited, third)
    line = status(first, network.places[2], lab.home)[limited.id]
    assert "name='slow line'" in line
    assert "limit=↑5Mbit/s" in line
