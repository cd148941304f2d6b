"""Real peers train together and stay bit-identical."""

from __future__ import annotations

import signal

from tests.swarm.lab import Lab, assert_agreement, write_spec


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
    assert end["resume"] == f"p2ptrain peer {end['folder']}"
    again = lab.start(*end["resume"].split()[1:], "--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1")
    began = again.wait_for("training")
    assert (began["height"], began["state"]) >= (end["height"], "")
    assert again.id == first.id
    assert again.wait_for_height(end["height"] + 3)["height"] > end["height"]
