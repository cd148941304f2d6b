"""Real peers exchange one byte a gradient and stay bit-identical, whatever happens to them on the way."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from p2ptrain.peer.export import export_run
from tests.swarm.lab import Lab
from tests.swarm.one_byte import (
    assert_equal_marks,
    records_in,
    wait_for_common_mark,
    wait_for_records,
    write_spec,
)


def test_three_peers_measure_and_end_with_the_same_state(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, total_records=1500, min_peers=3))
    peers = [first, lab.join(first), lab.join(first)]
    ends = [peer.wait_for("stopped", timeout=120) for peer in peers]
    assert {peer.exit_code() for peer in peers} == {0}
    assert len({(end["height"], end["commit"], end["state"]) for end in ends}) == 1
    assert ends[0]["height"] >= 1500
    assert_equal_marks(*peers)
    losses = [event["loss"] for peer in peers for event in peer.events if event["event"] == "evaluation"]
    heights = [event["height"] for peer in peers for event in peer.events if event["event"] == "evaluation"]
    assert min(heights) == 0
    assert min(losses) < losses[heights.index(0)] - 0.3
    logs = [records_in(Path(end["folder"])) for end in ends]
    assert logs[0] == logs[1] == logs[2]
    assert {author for author, _ in logs[0]} == {peer.id for peer in peers}
    assert sum(map(len, logs[0].values())) == ends[0]["height"]


@pytest.mark.long
def test_a_late_joiner_starts_from_a_snapshot_and_stays_bit_identical(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, mark_every=128), fault="steady")
    second = lab.join(first, fault="steady")
    wait_for_common_mark(first, second)
    late = lab.join(second, fault="steady")
    joined = late.wait_for("training")
    assert joined["height"] > 0
    wait_for_common_mark(first, second, late, after=joined["at"])
    assert_equal_marks(first, second, late)


@pytest.mark.long
def test_a_peer_that_is_killed_goes_on_in_a_new_log_and_lacks_nothing(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, mark_every=128), fault="steady")
    second = lab.join(first, fault="steady")
    wait_for_common_mark(first, second)
    second.signal(signal.SIGKILL)
    second.exit_code()
    had = records_in(second.folder)
    wait_for_records(first, 600)
    again = lab.found(second.folder, fault="steady")
    resumed = again.wait_for("training")
    assert again.id == second.id
    wait_for_common_mark(first, again, after=resumed["at"])
    for peer in (first, again):
        peer.signal(signal.SIGINT)
    for peer in (first, again):
        assert peer.exit_code() == 0
    now = records_in(first.folder)
    assert all(now[log].startswith(records) for log, records in had.items()), "no record that was on disk is lost"
    assert len([author for author, _ in now if author == second.id]) == 2


def test_ctrl_c_saves_and_an_export_is_what_the_logs_lead_to(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home), fault="steady")
    wait_for_records(first, 100)
    first.signal(signal.SIGINT)
    end = first.wait_for("stopped")
    assert first.exit_code() == 0
    out = lab.home / "model"
    checked = lab.start("verify", end["folder"])
    assert checked.exit_code() == 0
    assert checked.events[-1]["subject"] == "replay"
    assert end["state"] in checked.events[-1]["found"]
    export_run(Path(end["folder"]), out, None)
    provenance = json.loads((out / "provenance.json").read_text())
    assert (provenance["height"], provenance["state"]) == (end["height"], end["state"])
    verified = lab.start("verify", str(out), "--run", end["folder"])
    assert verified.exit_code() == 0
    assert [check["good"] for check in verified.events] == [True] * 3
