"""Members of a run hear each other's heartbeats and messages, and nobody else's."""

from __future__ import annotations

import asyncio
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import msgpack
import pytest

from p2ptrain.run import Digest, PeerId, Record, digest_of
from p2ptrain.swarm import Identity, Membership, Phase, Presence, Swarm, Vitals, membership, presence
from p2ptrain.swarm.announcement import Announcement
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.node import Node
from p2ptrain.swarm.presence import Heartbeat
from p2ptrain.swarm.rpc import RateLimit
from tests.unit.swarm.conftest import Swarms, eventually
from tests.unit.swarm.people import KEYS, RUN, presence_of
from tests.unit.swarm.test_announcement import ANNOUNCED

Pair = tuple[Swarm, Swarm]
Happening = tuple[str, Any]


class Ears:
    """A method that writes down what it hears."""

    def __init__(self) -> None:
        self._happened: queue.Queue[Happening] = queue.Queue()

    def heard(self, presence: Presence, news: bytes) -> None:
        self._happened.put(("heard", (presence.author, news)))

    def message(self, origin: PeerId, kind: str, data: bytes) -> None:
        self._happened.put(("message", (origin, kind, data)))

    def peers_changed(self, live: Mapping[PeerId, Presence]) -> None:
        self._happened.put(("live", {peer: presence.phase for peer, presence in live.items()}))

    def resumed(self) -> None:
        self._happened.put(("resumed", None))

    def wait_for(self, name: str, what: object = None) -> None:
        while self._happened.get(timeout=10) != (name, what):
            pass


@dataclass
class Member:
    """One peer's membership in a run, what it says and what it hears."""

    swarm: Swarm
    run: Digest
    phase: Phase = "training"
    news: bytes = b""
    ears: Ears = field(default_factory=Ears)
    acquaintances: tuple[str, ...] = ()
    announcement: Announcement | None = None

    def __post_init__(self) -> None:
        self.membership = Membership(
            self.swarm,
            self.run,
            lambda: Vitals(self.phase),
            lambda: self.news,
            lambda: self.acquaintances,
            self.announcement,
        )
        self.membership.listener = self.ears
        self.swarm.run(self.membership.start(), 10)

    def leave(self) -> None:
        self.swarm.run(self.membership.close(), 10)

    def fall_silent(self) -> None:
        for task in self.membership._tasks:
            self.swarm.loop.call_soon_threadsafe(task.cancel)

    def publish(self, record: Record) -> None:
        self.swarm.run(self.membership.publish(record), 10)


@pytest.fixture
def members(
    pair: Pair, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Member, Member]]:
    """Two peers that beat twenty times a second and see each other, in a run of this test's own."""
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(membership, "LOOK_SECONDS", 0.05)
    run = digest_of(request.node.name.encode())
    first, second = Member(pair[0], run), Member(pair[1], run)
    try:
        first.ears.wait_for("live", {second.swarm.peer_id: "training"})
        second.ears.wait_for("live", {first.swarm.peer_id: "training"})
        yield first, second
    finally:
        first.leave()
        second.leave()


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


def test_a_connection_without_heartbeats_is_opened_anew(
    members: tuple[Member, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failure of libp2p's gossip: the peer is in the directory, the connection stands, nothing is heard."""
    first, second = members
    node, other = first.swarm.node, second.swarm.peer_id
    closed = threading.Event()

    async def disconnect(peer: PeerId) -> None:
        await Node.disconnect(node, peer)
        closed.set()

    monkeypatch.setattr(node, "disconnect", disconnect)
    eventually(lambda: other in first.swarm.run(first.membership.directory(), 10))
    monkeypatch.setattr(membership, "UNHEARD_SECONDS", 0.2)
    monkeypatch.setattr(presence, "GONE_AFTER", 0.3)
    monkeypatch.setattr(membership, "ANNOUNCE_SECONDS", 0.05)
    second.fall_silent()
    first.phase = "paused"  # so that it looks into the directory now, not only in 20 s
    assert closed.wait(10)
    eventually(lambda: other in first.swarm.run(node.connected(), 10))


@pytest.mark.parametrize(("me", "first"), [(0, 10.0), (1, 20.0)])
def test_only_one_of_two_peers_that_do_not_hear_each_other_acts_at_first(me: int, first: float) -> None:
    keys = sorted(KEYS[:2], key=lambda key: key.peer_id)
    swarm = SimpleNamespace(peer_id=keys[me].peer_id, door=Door())
    member = Membership(swarm, RUN, lambda: Vitals("training"), bytes)  # type: ignore[arg-type]
    other = keys[1 - me].peer_id
    found = {other: presence_of(keys[1 - me])}
    cases = [(0.0, []), (first - 0.1, []), (first, [other]), (first + 0.1, []), (first + 9.0, [])]
    assert [(now, member._to_reconnect(found, {other}, now)) for now, _ in cases] == cases
    for connected, live in [(set(), {}), ({other}, found)]:  # it is gone, or it is heard again
        member.live = live
        assert not any(member._to_reconnect(found, connected, now) for now in (50.0, 100.0, 150.0))
    member.live, hidden = {}, {other: presence_of(keys[1 - me], addresses=())}  # it dials by itself
    assert not any(member._to_reconnect(hidden, {other}, now) for now in (200.0, 300.0))


def test_an_observer_reads_of_another_phase_at_once(members: tuple[Member, Member]) -> None:
    """And not only at the next regular announcement, in 20 s."""
    first, second = members

    def phases() -> set[str]:
        return {seen.phase for seen in second.swarm.run(second.membership.directory(), 10).values()}

    eventually(lambda: phases() == {"training"})
    first.phase = "paused"
    eventually(lambda: phases() == {"paused"})


def test_peers_that_started_apart_find_each_other_where_they_once_were(
    swarms: Swarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(membership, "LOOK_SECONDS", 0.05)
    one, other, run = swarms.start(), swarms.start(), digest_of(b"a run of two halves")
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{KEYS[0].peer_id}"
    first = Member(one, run)
    second = Member(other, run, acquaintances=(nobody, "no address", *other.addresses(), *one.addresses()))
    try:
        second.ears.wait_for("live", {one.peer_id: "training"})
        first.ears.wait_for("live", {other.peer_id: "training"})
        for member, peer in ((first, other), (second, one)):  # the two parts of the directory are one now, too
            eventually(lambda: set(member.swarm.run(member.membership.directory(), 10)) == {peer.peer_id})  # noqa: B023
    finally:
        first.leave()
        second.leave()


def test_two_parts_of_a_swarm_find_each_other_where_they_once_were(
    swarms: Swarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    for period in ("HEARTBEAT_SECONDS", "LOOK_SECONDS", "ANNOUNCE_SECONDS"):
        monkeypatch.setattr(membership, period, 0.05)
    one, other, run = swarms.start(), swarms.start(), digest_of(b"a run that was torn apart")
    members = [Member(swarm, run) for swarm in (one, swarms.join(one), other, swarms.join(other))]
    try:
        for member in members:
            eventually(lambda: len(member.membership.live) == 1)  # noqa: B023
        members[0].acquaintances = tuple(other.addresses())
        for member in members:
            eventually(lambda: len(member.membership.live) == 3)  # noqa: B023
    finally:
        for member in members:
            member.leave()


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


def test_peers_that_joined_through_a_third_one_meet(swarms: Swarms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(membership, "ANNOUNCE_SECONDS", 0.05)
    middle = swarms.start()
    left, right = Member(swarms.join(middle), RUN), Member(swarms.join(middle), RUN)
    eventually(lambda: right.swarm.peer_id in left.swarm.run(left.swarm.node.connected(), 10))
    left.ears.wait_for("live", {right.swarm.peer_id: "training"})
    left.leave()
    right.leave()
