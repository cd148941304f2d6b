"""Members of a run hear each other's heartbeats and messages, and nobody else's."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import msgpack
import pytest

from p2ptrain.run import PeerId, Record, digest_of
from p2ptrain.swarm import Identity, Membership, Swarm, Vitals, membership, presence
from p2ptrain.swarm.announcement import Announcement
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.presence import Heartbeat
from p2ptrain.swarm.rpc import RateLimit
from tests.unit.swarm.conftest import Swarms, eventually
from tests.unit.swarm.members import Member
from tests.unit.swarm.people import KEYS, RUN, presence_of
from tests.unit.swarm.test_announcement import ANNOUNCED

Pair = tuple[Swarm, Swarm]


def test_heartbeats_bring_phases_and_news(members: tuple[Member, Member]) -> None:
    first, second = members
    first.news = b"fresh"
    second.ears.wait_for("heard", (first.swarm.peer_id, b"fresh"))
    first.phase = "complete"
    second.ears.wait_for("live", {first.swarm.peer_id: "complete"})
    assert second.membership.live[first.swarm.peer_id].reachability == "loopback"


def test_the_directory_lists_the_others(members: tuple[Member, Member]) -> None:
    first, second = members
    eventually(lambda: set(first.swarm.run(first.membership.directory(), 10)) == {second.swarm.peer_id})


def test_a_run_is_put_into_the_list_of_runs_by_its_peers_if_it_is_announced(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.05)
    first, second = pair
    unlisted = Member(second, digest_of(b"not announced"))
    member = Member(first, ANNOUNCED.run, announcement=ANNOUNCED)
    try:
        eventually(lambda: bool(second.run(second.directory.runs(), 10)))
        assert second.run(second.directory.runs(), 10) == [ANNOUNCED]
    finally:
        member.leave()
        unlisted.leave()


@pytest.mark.parametrize("peers", [1, 2, 10, 1000])
def test_about_two_peers_of_a_run_announce_it_each_time(peers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; of one or two each does."""
    announced = 0

    class Directory:
        async def announce_run(self, announcement: Announcement) -> int:
            nonlocal announced
            announced += 1
            raise OSError("no network")  # which does not end it

    async def sleep(seconds: float) -> None:
        rounds[0] += seconds == membership.LIST_SECONDS
        if rounds[0] == 1000:
            raise asyncio.CancelledError

    rounds = [0]
    swarm = SimpleNamespace(directory=Directory(), peer_id=KEYS[0].peer_id, door=Door())
    member = Membership(swarm, RUN, lambda: Vitals("training"), bytes)  # type: ignore[arg-type]
    member.live = {PeerId(str(number)): presence_of() for number in range(peers - 1)}
    monkeypatch.setattr(asyncio, "sleep", sleep)
    random.seed(0)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(member._list_regularly(ANNOUNCED))
    expected = 1000 if peers <= 2 else 2000 / peers
    assert 0.5 * expected <= announced <= 1.5 * expected + 3


def test_an_observer_reads_of_another_phase_at_once(members: tuple[Member, Member]) -> None:
    """And not only at the next regular announcement, in 20 s."""
    first, second = members

    def phases() -> set[str]:
        return {seen.phase for seen in second.swarm.run(second.membership.directory(), 10).values()}

    eventually(lambda: phases() == {"training"})
    first.phase = "paused"
    eventually(lambda: phases() == {"paused"})


def test_who_takes_part_with_a_copy_of_another_s_key_is_noticed_by_both(
    swarms: Swarms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for period in ("HEARTBEAT_SECONDS", "ANNOUNCE_SECONDS"):
        monkeypatch.setattr(membership, period, 0.05)
    monkeypatch.setattr(logging.getLogger("p2ptrain"), "propagate", True)
    home, run = swarms.start(), digest_of(b"a run with a double")
    key = swarms.identity()
    copied = tmp_path / "elsewhere.key"
    copied.write_bytes(key.path.read_bytes())
    copied.chmod(0o600)
    members = [Member(home, run)]

    def noticed() -> int:
        return sum(f"as this peer, {key.peer_id}" in record.message for record in caplog.records)

    def come(identity: Identity) -> None:
        swarm = swarms.start(*home.addresses(), identity=identity)
        members.append(Member(swarm, run))

    try:
        come(key)
        eventually(lambda: key.peer_id in home.run(home.directory.peers(run), 10))
        crashed = members.pop()
        crashed.fall_silent()
        crashed.swarm.close()
        come(Identity.open(key.path))  # the same peer after a crash, whose last record is still there
        eventually(lambda: members[-1].membership._double is not None)
        assert not noticed()
        come(Identity.open(copied))
        eventually(lambda: noticed() == 2)
    finally:
        for member in members:
            member.leave()


def test_a_goodbye_is_heard_at_once(members: tuple[Member, Member]) -> None:
    first, second = members
    first.leave()
    second.ears.wait_for("live", {})
    assert second.swarm.run(second.membership.directory(), 10) == {}


def test_who_falls_silent_disappears_and_comes_back_when_it_speaks_again(
    members: tuple[Member, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = members
    monkeypatch.setattr(presence, "GONE_AFTER", 0.3)
    first.fall_silent()
    second.ears.wait_for("live", {})
    first.swarm.run(first.membership.beat(), 10)
    second.ears.wait_for("live", {first.swarm.peer_id: "training"})


def test_a_peer_that_was_stopped_is_told_and_takes_nobody_for_gone(
    members: tuple[Member, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = members
    monkeypatch.setattr(membership, "monotonic", lambda: time.monotonic() + 1000.0)
    first.ears.wait_for("resumed")
    assert first.membership.live.keys() == {second.swarm.peer_id}


def test_peers_of_another_run_are_not_heard(members: tuple[Member, Member]) -> None:
    first, second = members
    stranger = Member(first.swarm, digest_of(b"another run"), news=b"from elsewhere")
    try:
        for news in (b"one", b"two"):
            first.news = news
            second.ears.wait_for("heard", (first.swarm.peer_id, news))
    finally:
        stranger.leave()
    assert not second.membership.dropped
    assert stranger.membership.live == {}


class Note(Record):
    kind: ClassVar[str] = "note/1"

    text: str


def test_other_records_reach_the_method_with_their_authenticated_origin(members: tuple[Member, Member]) -> None:
    first, second = members
    note = Note(text="hello")
    first.publish(note)
    second.ears.wait_for("message", (first.swarm.peer_id, "note/1", note.encoded))


class Raw(Record):
    """Whatever bytes, as if they were a record."""

    kind: ClassVar[str] = "raw/1"

    @classmethod
    def of(cls, data: bytes) -> Raw:
        raw = cls()
        raw.__dict__["encoded"] = data
        return raw


FORGED: dict[str, tuple[Callable[[Member], Record], str]] = {
    "in another's name": (
        lambda me: Heartbeat(presence=presence_of(KEYS[1], run=me.run), news=b""),
        "a heartbeat names another peer or run than its own",
    ),
    "for another run": (
        lambda me: Heartbeat(presence=presence_of(me.swarm.key), news=b""),
        "a heartbeat names another peer or run than its own",
    ),
    "garbage": (lambda me: Raw.of(b"garbage"), "a message is no record"),
    "in name only": (lambda me: Raw.of(msgpack.packb(["heartbeat/1", {}])), "a heartbeat/1 record is wrong"),
}


@pytest.mark.parametrize(("forge", "reason"), FORGED.values(), ids=FORGED)
def test_a_forged_message_is_dropped_and_counted(
    forge: Callable[[Member], Record],
    reason: str,
    members: tuple[Member, Member],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = members
    caplog.set_level(logging.DEBUG, "p2ptrain.swarm.membership")
    first.publish(forge(first))
    eventually(lambda: second.membership.dropped["malformed"] == 1)
    assert reason in caplog.text
    assert second.membership.live.keys() == {first.swarm.peer_id}


def test_a_flood_is_cut_off_and_counted(members: tuple[Member, Member], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = members
    monkeypatch.setattr(second.membership, "_limit", RateLimit(rate=1.0, burst=5))
    for number in range(10):
        first.publish(Note(text=str(number)))
    eventually(lambda: second.membership.dropped["too many messages"] > 0)
