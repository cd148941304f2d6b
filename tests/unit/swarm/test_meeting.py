"""Members of a run find each other: through others, where they once were, and after gossip has failed."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from p2ptrain.run import PeerId, digest_of
from p2ptrain.swarm import Membership, Swarm, Vitals, membership, presence
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.node import Node
from tests.unit.swarm.conftest import Swarms, eventually
from tests.unit.swarm.members import Member
from tests.unit.swarm.people import KEYS, RUN, presence_of

Pair = tuple[Swarm, Swarm]


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


def test_peers_that_joined_through_a_third_one_meet(swarms: Swarms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(membership, "ANNOUNCE_SECONDS", 0.05)
    middle = swarms.start()
    left, right = Member(swarms.join(middle), RUN), Member(swarms.join(middle), RUN)
    eventually(lambda: right.swarm.peer_id in left.swarm.run(left.swarm.node.connected(), 10))
    left.ears.wait_for("live", {right.swarm.peer_id: "training"})
    left.leave()
    right.leave()
