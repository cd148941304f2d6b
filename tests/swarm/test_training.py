"""Real peers train together and stay bit-identical."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from p2ptrain.diloco.state import StateManifest
from p2ptrain.state import RunFolder
from tests.swarm.lab import LOOPBACK, Lab, assert_agreement, write_spec


def test_three_peers_train_and_end_with_the_same_state(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, total_steps=400, min_peers=3))
    peers = [first, lab.join(first), lab.join(first)]
    ends = [peer.wait_for("stopped", timeout=120) for peer in peers]
    assert {peer.exit_code() for peer in peers} == {0}
    assert len({(end["height"], end["commit"], end["state"]) for end in ends}) == 1
    assert ends[0]["height"] == 20
    assert_agreement(*peers)
    everyone = sorted(peer.id for peer in peers)
    together = [commit for commit in first.commits().values() if commit["contributors"] == everyone]
    assert len(together) >= 10, "most commits hold everyone's contribution"
    losses = {
        event["height"]: event["loss"] for peer in peers for event in peer.events if event["event"] == "evaluation"
    }
    assert losses[16] < losses[8] < 5.6


@pytest.mark.long
def test_a_late_joiner_ends_bit_identical(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, total_steps=1200, min_peers=2), fault="steady")
    second = lab.join(first, fault="steady")
    first.wait_for_height(20)
    late = lab.join(second, fault="steady")
    joined = late.wait_for("training")
    assert joined["height"] >= 16
    peers = [first, second, late]
    ends = [peer.wait_for("stopped", timeout=150) for peer in peers]
    assert len({(end["height"], end["commit"], end["state"]) for end in ends}) == 1
    assert_agreement(*peers)
    assert any(late.id in commit["contributors"] for commit in first.commits().values())


def test_ctrl_c_saves_and_the_printed_command_resumes(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home))
    first.wait_for_height(10)
    first.signal(signal.SIGINT)
    end = first.wait_for("stopped")
    assert first.exit_code() == 0
    assert end["resume"].startswith(f"p2ptrain peer {end['folder']} --listen {LOOPBACK} ")
    again = lab.start(*end["resume"].removesuffix(" --json").split()[1:])
    began = again.wait_for("training")
    assert (began["height"], began["state"]) >= (end["height"], "")
    assert again.id == first.id
    assert again.wait_for_height(end["height"] + 3)["height"] > end["height"]


@pytest.mark.long
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_swarm_of_one_that_was_stopped_ends_with_the_same_bits_as_one_that_was_not(lab: Lab, dropout: float) -> None:
    spec = write_spec(lab.home, inner_steps=8, fragments=1, overlap=0, merge="overwrite", total_steps=160)
    if dropout:
        spec.write_text(spec.read_text().replace("[model.config]", f"[model.config]\nattention_dropout = {dropout}"))
    identity = lab.home / "me.key"
    first = lab.found(spec, "--identity", str(identity))
    whole = first.wait_for("stopped")
    assert first.exit_code() == 0
    second = lab.found(spec, "--identity", str(identity))
    second.wait_for_height(6)
    second.signal(signal.SIGINT)
    half = second.wait_for("stopped")
    assert second.exit_code() == 0
    assert 6 <= half["height"] < 20
    third = lab.start("peer", half["folder"], "--listen", LOOPBACK, "--threads", "1")
    end = third.wait_for("stopped")
    assert third.exit_code() == 0
    assert (end["height"], end["steps"] + half["steps"]) == (whole["height"], whole["steps"])
    assert final_vectors(Path(end["folder"])) == final_vectors(Path(whole["folder"]))


def final_vectors(folder: Path) -> tuple[tuple[bytes, bytes], ...]:
    """Digests of the newest snapshot's θ and momenta."""
    opened = RunFolder.open(folder)
    try:
        return StateManifest.decode(opened.ledger.snapshots()[0].manifest).vectors
    finally:
        opened.close()
