"""Real peers exchange one byte a gradient and stay bit-identical, whatever happens to them on the way."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2ptrain.commands.export import export_run
from p2ptrain.commands.revoke import revoke
from p2ptrain.errors import TrainingError
from p2ptrain.run import PeerId
from p2ptrain.spsa.audit import Past
from p2ptrain.state import RunFolder
from p2ptrain.state.logs import Log
from tests.swarm.lab import Lab
from tests.swarm.namespaces import Network, reason_not
from tests.swarm.one_byte import (
    assert_equal_marks,
    records_in,
    wait_for_common_mark,
    wait_for_records,
    write_spec,
)
from tests.swarm.test_kill_loop import SECONDS, Crowd

TRAINING = TrainingError.exit_code


@pytest.fixture
def network() -> Iterator[Network]:
    """Three machines that reach one another."""
    if reason := reason_not():
        pytest.skip(reason)
    with Network(3) as network:
        yield network


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


@pytest.mark.long
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


@pytest.mark.long
def test_what_a_revoked_peer_has_said_is_taken_back_everywhere(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, mark_every=128), fault="steady")
    second, third = lab.join(first, fault="steady"), lab.join(first, fault="steady")
    wait_for_common_mark(first, second, third)
    told = revoke(first.folder, third.id[-8:], 10, False, None)
    assert "10 stay" in told
    assert third.exit_code() == TRAINING
    assert "an owner of the run has revoked this peer" in third.errors
    wait_for_common_mark(first, second, after=time.monotonic())
    assert_equal_marks(first, second)
    for peer in (first, second):
        peer.signal(signal.SIGINT)
    ends = [peer.wait_for("stopped") for peer in (first, second)]
    opened = RunFolder.open(second.folder, lock=False)
    past = Past(opened)
    counting = {share.peer: share.standing for share in past.shares()}
    assert counting[PeerId(third.id)] == 10
    without = {log: count for log, count in past.book.standing().items() if log.author != third.id}
    [kept] = [log for log in past.book.standing() if log.author == third.id]
    assert past.state_at({**without, kept: 10}).digest.hex() == ends[1]["state"]
    opened.close()


@pytest.mark.long
def test_a_peer_that_contradicts_itself_is_cut_by_all_and_the_others_go_on(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, mark_every=128), fault="steady")
    second = lab.join(first, fault="steady")
    liar = lab.join(first, fault="contradict")
    for peer in (first, second):
        peer.wait_for("warning", lambda event: "contradicted itself" in event["text"], timeout=90)
    wait_for_common_mark(first, second, after=time.monotonic())
    assert_equal_marks(first, second)
    for peer in (first, second):
        peer.signal(signal.SIGINT)
        peer.exit_code()
    standing: list[int] = []
    for peer in (first, second):
        [log] = [log for log in records_in(peer.folder) if log[0] == liar.id]
        opened = RunFolder.open(peer.folder, lock=False)
        standing.append(Past(opened).book.standing()[Log(PeerId(log[0]), log[1])])
        opened.close()
    assert standing[0] == standing[1]
    assert 64 <= standing[0] < 64 + 16, "where the batch began that it said two of"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_peers_that_are_killed_for_three_minutes_lose_no_record(lab: Lab) -> None:
    crowd = Crowd(lab, spec=write_spec(lab.home, total_records=15_000, mark_every=512))
    wait_for_common_mark(*crowd.running)
    crowd.kill_for(SECONDS, random.Random(1))
    assert sum(map(len, crowd.lives)) > 12, "the loop killed too few"
    ends = [peer.wait_for("stopped", timeout=300) for peer in crowd.running]
    assert {peer.exit_code() for peer in crowd.running} == {0}
    assert len({(end["height"], end["commit"], end["state"]) for end in ends}) == 1
    everyone = [peer for processes in crowd.lives for peer in processes]
    assert_equal_marks(*everyone)
    logs = [records_in(folder) for folder in crowd.folders]
    assert logs[0] == logs[1] == logs[2]
    assert len(logs[0]) == len(everyone), "a log for every life"
    evaluations = sorted(
        (event["height"], event["loss"]) for peer in everyone for event in peer.events if event["event"] == "evaluation"
    )
    assert evaluations[-1][1] < evaluations[0][1] - 0.5


@pytest.mark.long
@pytest.mark.timeout(300)
def test_both_sides_of_a_partition_end_up_with_the_records_of_either(network: Network, lab: Lab) -> None:
    crowd = Crowd(lab, network.places, write_spec(lab.home, mark_every=128))
    wait_for_common_mark(*crowd.running)
    with network.parted_for(30.0, {0, 1}, {2}):
        time.sleep(25.0)  # both sides have to go on for a while
    wait_for_common_mark(*crowd.running, after=time.monotonic())
    assert_equal_marks(*crowd.running)
    crowd.stop()
    logs = [records_in(folder) for folder in crowd.folders]
    assert all(logs[0][log].startswith(records[:-64]) for log, records in logs[2].items())
    assert {author for author, _ in logs[0]} == {author for author, _ in logs[2]} == {p.id for p in crowd.running}
