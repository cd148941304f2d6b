"""Records that are lost, late, said twice, made up or too many: peers end with the same bytes, or never use them."""

from __future__ import annotations

import signal
import time
from dataclasses import replace

import pytest

from p2ptrain.run import Digest, PeerId
from p2ptrain.spsa.messages import FIRST, LogBatch
from p2ptrain.state.logs import Log
from tests.swarm.faulty import LATE_SECONDS
from tests.swarm.lab import Lab, Peer
from tests.swarm.one_byte import (
    assert_equal_marks,
    records_in,
    wait_for_common_mark,
    wait_for_records,
    write_spec,
)
from tests.swarm.test_hostile import Intruder

SESSION = bytes(8)


def stop(*peers: Peer) -> None:
    for peer in peers:
        peer.signal(signal.SIGINT)
    for peer in peers:
        assert peer.exit_code() == 0
        assert "Traceback" not in peer.errors


@pytest.mark.long
@pytest.mark.timeout(400)
def test_records_that_come_late_twice_or_never_are_all_there_in_the_end(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, mark_every=128), fault="lossy+steady")
    second = lab.join(first, fault="lossy+steady")
    late = lab.join(first, fault="late+steady")
    late.wait_for("progress", lambda event: event["seconds"] > LATE_SECONDS + 10, timeout=LATE_SECONDS + 90)
    wait_for_common_mark(first, second, late, after=time.monotonic())
    assert_equal_marks(first, second, late)
    stop(first, second, late)
    logs = [records_in(peer.folder) for peer in (first, second, late)]
    for name, records in logs[2].items():
        for other in logs[:2]:
            least = min(len(records), len(other[name]))
            assert least > len(records) - 200, "what was measured while nobody heard of it has arrived"
            assert other[name][:least] == records[:least]
    assert {author for author, _ in logs[0]} == {first.id, second.id, late.id}


@pytest.mark.long
def test_a_batch_on_the_disk_of_a_killed_peer_is_said_later_and_contradicts_nothing(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, mark_every=128), fault="steady")
    second = lab.join(first, fault="die_before_broadcast")
    second.wait_for("training")
    second.exit_code()
    [(name, had)] = [item for item in records_in(second.folder).items() if item[0][0] == second.id]
    assert len(had) > 64
    again = lab.found(second.folder, fault="steady")
    again.wait_for("training")
    wait_for_common_mark(first, again, after=time.monotonic())
    stop(first, again)
    assert records_in(first.folder)[name] == had, "the batch that had not been sent is there, once"
    assert not [event for event in first.events if event["event"] == "warning" and "contradicted" in event["text"]]


@pytest.mark.long
def test_a_flood_is_applied_slowly_and_nobody_stops_measuring(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, mark_every=512), fault="steady")
    second = lab.join(first, fault="steady")
    wait_for_records(first, 100)
    flooder = lab.join(first, fault="flood+steady")
    flooder.wait_for("training")
    steps = {peer: peer.wait_for("progress", after=time.monotonic())["steps"] for peer in (first, second)}
    for peer in (first, second):
        peer.wait_for("progress", lambda event, least=steps[peer] + 200: event["steps"] >= least, timeout=60)
    flooder.signal(signal.SIGINT)
    flooder.exit_code()
    [said] = [records for (author, _), records in records_in(flooder.folder).items() if author == flooder.id]
    assert len(said) > 5_000, "that was no flood"
    wait_for_records(first, len(said))
    wait_for_common_mark(first, second, after=time.monotonic())
    assert_equal_marks(first, second)
    stop(first, second)
    for peer in (first, second):
        [kept] = [records for (author, _), records in records_in(peer.folder).items() if author == flooder.id]
        assert said.startswith(kept), "nothing of it was refused for its time"


@pytest.mark.long
def test_what_is_forged_replayed_or_truncated_is_counted_and_never_applied(lab: Lab) -> None:
    first = lab.found(write_spec(lab.home, mark_every=128), fault="steady")
    second = lab.join(first, fault="steady")
    wait_for_records(first, 100)
    intruder = Intruder(lab, first)
    try:
        for data in hostile_batches(intruder, PeerId(second.id)):
            intruder.say(data)
        wait_for_common_mark(first, second, after=time.monotonic())
        assert_equal_marks(first, second)
        stop(first, second)
    finally:
        intruder.close()
    for peer in (first, second):
        refused = peer.wait_for("stopped")["refused"]
        assert refused["malformed"] == 2
        assert refused["not its author's"] == 2
        assert refused["gap"] >= 1
        assert refused["forged"] == 3
        assert refused["clock"] == 1
        logs = records_in(peer.folder)
        assert logs[intruder.swarm.peer_id, SESSION] == bytes([1] * 16), "its one good batch counts, and that is all"
        assert {author for author, _ in logs} == {first.id, second.id, intruder.swarm.peer_id}


def hostile_batches(intruder: Intruder, victim: PeerId) -> list[bytes]:
    """One good batch of the intruder's own, and everything that can be wrong with another."""
    mine, key, run = Log(intruder.swarm.peer_id, SESSION), intruder.swarm.key, intruder.run
    codes = bytes([1] * 16)
    good = LogBatch(mine, 0, 100, codes).signed(run, FIRST, key)
    following = LogBatch(mine, 16, 100, codes)
    of_another_run = following.signed(Digest(bytes(32)), good.digest, key)
    of_another_place = following.signed(run, FIRST, key)
    unsigned = replace(following, signature=bytes(64))
    in_others_name = LogBatch(Log(victim, SESSION), 0, 0, codes).signed(run, FIRST, key)
    return [
        good.encoded,
        good.encoded,  # replayed: known
        good.encoded[:-1],
        replace(following, codes=bytes([128])).signed(run, good.digest, key).encoded,  # no such code
        in_others_name.encoded,
        replace(in_others_name, start=10**6).encoded,
        replace(following, start=64).signed(run, good.digest, key).encoded,
        of_another_run.encoded,
        of_another_place.encoded,
        unsigned.encoded,
        replace(following, clock=99).signed(run, good.digest, key).encoded,
    ]
