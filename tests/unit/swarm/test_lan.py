"""What of the local network is believed; peers that find each other there are in `tests/swarm/test_nat.py`."""

from __future__ import annotations

import asyncio

import pytest
from zeroconf import ServiceInfo

from p2ptrain.run import Digest
from p2ptrain.swarm import NodeConfig
from p2ptrain.swarm.lan import MAX_WAITING, SERVICE, Lan, is_local
from tests.unit.swarm.people import KEYS

PEER = KEYS[0].peer_id
RUN, OTHER_RUN = Digest(bytes(32)), Digest(bytes(31) + b"1")


def advertisement(**properties: bytes) -> ServiceInfo:
    return ServiceInfo(SERVICE, f"somebody.{SERVICE}", port=1, properties=properties)


def test_only_advertisements_of_this_run_by_a_possible_peer_count() -> None:
    lan = Lan(RUN)
    assert lan._peer_of(advertisement(run=lan._run, peer=PEER.encode())) == PEER
    assert lan._peer_of(advertisement(run=Lan(OTHER_RUN)._run, peer=PEER.encode())) is None
    for nonsense in (b"", b"\xff\xff", b"12D3KooWnobody", PEER.encode() + b"x"):
        assert lan._peer_of(advertisement(run=lan._run, peer=nonsense)) is None
    assert lan._peer_of(advertisement()) is None


def test_the_run_can_not_be_told_from_what_is_advertised() -> None:
    assert len(Lan(RUN)._run) == 16
    assert Lan(RUN)._run not in RUN


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("/ip4/192.168.1.5/tcp/1", True),
        ("/ip4/10.0.0.1/tcp/1/p2p/x", True),
        ("/ip4/169.254.1.1/tcp/1", True),
        ("/ip4/127.0.0.1/tcp/1", False),
        ("/ip4/0.0.0.0/tcp/1", False),
        ("/ip4/8.8.8.8/tcp/1", False),
        ("/ip6/fe80::1/tcp/1", False),
        ("/dns4/example.org/tcp/1", False),
        ("/ip4/10.0.0.1/tcp/1/p2p/r/p2p-circuit", False),
    ],
)
def test_only_places_in_a_local_network_are_dialled_or_told(address: str, local: bool) -> None:
    assert is_local(address) is local


def test_a_flood_of_advertisements_is_dropped() -> None:
    lan = Lan(RUN)
    for number in range(10 * MAX_WAITING):
        lan._hear(zeroconf=None, service_type=SERVICE, name=str(number), state_change=None)  # type: ignore[arg-type]
    assert lan._heard.qsize() == MAX_WAITING


def test_who_is_on_this_machine_alone_keeps_silent_in_the_network() -> None:
    loopback = ("/ip4/127.0.0.1/tcp/0",)
    assert NodeConfig().searches_lan
    assert not NodeConfig(lan=False).searches_lan
    assert not NodeConfig(listen=loopback).searches_lan
    assert not NodeConfig(no_listen=True, bootstrap=loopback).searches_lan
    assert NodeConfig(no_listen=True, bootstrap=("/ip4/192.168.1.5/tcp/1/p2p/x",)).searches_lan


def test_an_address_of_this_machine_alone_is_not_advertised() -> None:
    async def advertise() -> None:
        await Lan(RUN).advertise(PEER, ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"])  # would fail: nothing is open

    asyncio.run(advertise())
