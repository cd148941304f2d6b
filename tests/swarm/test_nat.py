"""Peers that can't be reached: through a relay, without listening, and found again when their bootstrap is gone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from p2ptrain.errors import NetworkError
from tests.swarm import one_byte
from tests.swarm.lab import Lab, Peer, Place, assert_agreement, write_spec
from tests.swarm.namespaces import Islands, Network, reason_not

ROUNDS = 10
PATIENCE = 240.0


@pytest.fixture
def islands() -> Iterator[Islands]:
    """Two machines without a route to each other, and one in the middle."""
    if reason := reason_not():
        pytest.skip(reason)
    with Islands(2) as islands:
        yield islands


@pytest.fixture
def network() -> Iterator[Network]:
    """Three machines that reach one another."""
    if reason := reason_not():
        pytest.skip(reason)
    with Network(3) as network:
        yield network


def start_bootstrap(lab: Lab, place: Place) -> tuple[Peer, str]:
    node = lab.start("bootstrap", "--listen", place.listen, place=place)
    return node, str(node.wait_for("bootstrap", timeout=PATIENCE)["invite"])


def not_listening(place: Place) -> Place:
    return replace(place, listen="")


def wait_for_rounds_of(*peers: Peer, count: int) -> None:
    """Each of the peers takes in so many commits to which all of them contributed."""
    ids = {peer.id for peer in peers}
    for peer in peers:
        at = 0.0
        for _ in range(count):
            at = peer.wait_for("commit", lambda event: set(event["contributors"]) == ids, PATIENCE, at)["at"]


def stop(*peers: Peer) -> None:
    for peer in peers:
        peer.signal(signal.SIGINT)
        assert peer.exit_code(PATIENCE) == 0, peer.errors


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("listening", [True, False], ids=["listening", "not listening"])
def test_two_peers_without_a_route_to_each_other_train_through_a_relay(
    islands: Islands, lab: Lab, listening: bool
) -> None:
    """With addresses that lead nowhere, and with none at all."""
    _, swarm = start_bootstrap(lab, islands.middle)
    one, other = islands.places if listening else map(not_listening, islands.places)
    first = lab.found(write_spec(lab.home, min_peers=2), "--bootstrap", swarm, place=one)
    second = lab.join(first, place=other)
    wait_for_rounds_of(first, second, count=ROUNDS)
    stop(second, first)
    assert_agreement(first, second)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_one_byte_peers_without_a_route_to_each_other_train_through_a_relay(islands: Islands, lab: Lab) -> None:
    _, swarm = start_bootstrap(lab, islands.middle)
    spec = one_byte.write_spec(lab.home, min_peers=2)
    first = lab.found(spec, "--bootstrap", swarm, place=islands.places[0])
    second = lab.join(first, place=not_listening(islands.places[1]))
    one_byte.wait_for_common_mark(first, second, timeout=PATIENCE)
    stop(second, first)
    one_byte.assert_equal_marks(first, second)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_members_of_a_private_run_meet_through_a_relay_that_is_none(islands: Islands, lab: Lab) -> None:
    """The bootstrap node holds no certificate, and hands on what it can't read; one member does not listen at all."""
    node, swarm = start_bootstrap(lab, islands.middle)
    one, other = islands.places
    first = lab.found(write_spec(lab.home, min_peers=2), "--private", "--bootstrap", swarm, place=one)
    second = lab.join_privately(first, lab.invite(first, "second"), place=not_listening(other))
    wait_for_rounds_of(first, second, count=ROUNDS)
    assert node.process.poll() is None
    stop(second, first)
    assert_agreement(first, second)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_peer_that_does_not_listen_contributes_for_many_rounds(network: Network, lab: Lab) -> None:
    """To a swarm without any relay: over the connections that it opened itself."""
    first = lab.found(write_spec(lab.home, min_peers=2), place=network.places[0])
    second = lab.join(first, place=not_listening(network.places[1]))
    wait_for_rounds_of(first, second, count=3 * ROUNDS)
    third = lab.join(first, place=not_listening(network.places[2]))  # hears the second one through the first alone
    wait_for_rounds_of(first, second, third, count=ROUNDS)
    stop(third, second, first)
    assert_agreement(first, second, third)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_swarm_whose_bootstrap_is_gone_takes_in_a_newcomer_by_an_old_invite(network: Network, lab: Lab) -> None:
    node, swarm = start_bootstrap(lab, network.places[0])
    first = lab.found(write_spec(lab.home, min_peers=2), "--bootstrap", swarm, place=network.places[1])
    second = lab.join(first, place=network.places[2])
    wait_for_rounds_of(first, second, count=1)
    node.signal(signal.SIGKILL)
    node.exit_code()
    newcomer = lab.join(first, place=network.places[0])
    wait_for_rounds_of(first, second, newcomer, count=3)
    stop(newcomer, second, first)
    assert_agreement(first, second, newcomer)


# The local network ---------------------------------------------------------------------------------------------------


def in_lan(place: Place, port: int) -> Place:
    """Tests keep silent in the local network, but not here; and everybody listens elsewhere than before."""
    return Place((*place.prefix, "env", "P2PTRAIN_NO_LAN=0"), f"{place.listen.removesuffix('/0')}/{port}")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_peers_find_each_other_in_the_local_network_when_no_address_holds_any_more(network: Network, lab: Lab) -> None:
    one, other, _ = network.places
    first = lab.found(write_spec(lab.home), place=in_lan(one, 31001))
    first.wait_for_height(1, PATIENCE)
    stop(first)
    moved = lab.found(str(first.folder), place=in_lan(one, 31002))
    assert moved.id == first.id

    refused = lab.join(first, "--no-lan", place=in_lan(other, 31003))
    assert refused.exit_code(PATIENCE) == NetworkError.exit_code
    second = lab.join(first, place=in_lan(other, 31003))  # by the invite of before
    wait_for_rounds_of(moved, second, count=2)

    stop(second, moved)
    both = [
        lab.found(str(peer.folder), place=in_lan(place, port))
        for peer, place, port in ((moved, one, 31004), (second, other, 31005))
    ]
    wait_for_rounds_of(*both, count=2)
    stop(*both)
    assert_agreement(*both)
