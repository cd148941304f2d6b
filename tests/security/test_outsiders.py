"""Private means private: nobody without a certificate that holds gets anything in or out, whatever they show.

`test_mutations.py` removes each check in turn and sees that these tests would notice.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2ptrain.swarm.relay import TUNNEL
from tests.security.hearing import heard_again, is_heard, opens_what_is_said_now
from tests.security.house import House
from tests.security.outsiders import ATTEMPTS, FROM_WITHIN, Outsider, protocol_of, requests, try_to, words_of
from tests.security.shown import SHOWN, Shown, let_in
from tests.unit.swarm.conftest import eventually

Make = Callable[..., Outsider]


def test_every_call_that_peers_serve_is_tried(house: House) -> None:
    served = house.owner.run.swarm.node.daemon._client.control.handlers.keys()
    ours = {name for name in served if name.startswith("/p2ptrain/") and name != TUNNEL}
    assert ours == {protocol_of(method) for method in (*requests(house.owner.run.id), "introduce")}


# What outsiders show -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.__name__)
def test_who_shows_that_is_refused_and_gets_nothing_in_or_out(house: House, outsider: Make, shown: Shown) -> None:
    them, victim = outsider(), house.victim
    certificate = shown(house, them)
    for passing in (True, False):
        assert them.introduce(victim, certificate, passing)
    assert house.owner.door.refusal(them.peer)
    assert [attempt for attempt in (*ATTEMPTS, *FROM_WITHIN) if try_to(attempt, them, victim)] == []
    assert not is_heard(house, them)
    swarm = house.owner.run.swarm
    assert them.peer not in swarm.run(swarm.directory.peers(house.owner.run.id))


def test_a_member_is_heard_when_it_says_the_same(house: House, outsider: Make) -> None:
    """In the same words as outsiders above, and sealed with the run's key."""
    them = outsider()
    assert not is_heard(house, them)
    let_in(house, them)
    assert is_heard(house, them)
    house.revoke(them.peer)
    assert not is_heard(house, them)


def test_what_outsiders_publish_arrives_and_is_dropped(house: House, outsider: Make) -> None:
    them, victim = outsider(), house.owner.run.swarm
    them.swarm.run(them.swarm.node.connect(victim.peer_id, victim.addresses()))
    before = house.owner.membership.dropped["not a member's"]

    def arrived() -> bool:
        for words in words_of(them):
            them.swarm.run(them.swarm.node.publish(them.topic, words))
        return house.owner.membership.dropped["not a member's"] > before

    eventually(arrived)
    assert them.peer not in house.owner.membership.live


def test_a_revoked_member_s_key_opens_nothing_that_is_said_from_now_on(house: House, outsider: Make) -> None:
    assert not opens_what_is_said_now(house, outsider())


def test_a_node_that_never_introduces_itself_is_hung_up_on(
    house: House, outsider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2ptrain.swarm.private_door.HANG_UP_SECONDS", 1.0)
    them, victim = outsider(), house.owner.run.swarm
    them.swarm.run(them.swarm.node.connect(victim.peer_id, victim.addresses()))
    assert victim.peer_id in them.swarm.run(them.swarm.node.connected())
    eventually(lambda: victim.peer_id not in them.swarm.run(them.swarm.node.connected()))


def test_members_go_on_hearing_each_other(house: House) -> None:
    """The outsiders above have changed nothing; also after the key has changed several times."""
    house.revoke()
    before = len(house.owner.ears.messages)
    eventually(lambda: (house.member.peer, "heartbeat") in house.owner.ears.messages[before:])
    assert house.owner.door.access.epoch() == house.member.door.access.epoch()


def test_what_libp2p_delivers_twice_is_heard_once(house: House) -> None:
    """An outsider can't say a member's words again as its own; libp2p checks who said them. But it could bring the
    very message again when libp2p has forgotten it."""
    assert not heard_again(house)
