"""Tunnels through a relay, and what others find when they dial back; real nodes on loopback."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from p2ptrain.errors import NetworkError
from p2ptrain.swarm import NodeConfig, RelayLimits, Swarm, relay
from p2ptrain.swarm.addresses import is_relayed
from p2ptrain.swarm.relay import RELAY, TUNNEL
from p2ptrain.swarm.swarm import Hello, HelloAnswer
from tests.unit.swarm.conftest import LOOPBACK, Swarms, eventually


class Harbour:
    """A relay, and peers that do not listen."""

    def __init__(self, swarms: Swarms, limits: RelayLimits) -> None:
        self._swarms = swarms
        self.relay = swarms.run(NodeConfig(listen=(LOOPBACK,), relay=limits))

    def hidden(self) -> Swarm:
        return self._swarms.run(NodeConfig(bootstrap=tuple(self.relay.addresses()), no_listen=True, lan=False))

    @property
    def carried(self) -> int:
        return self.relay.node.sent["relay"]


@pytest.fixture
def harbour(swarms: Swarms) -> Callable[..., Harbour]:
    return lambda **limits: Harbour(swarms, RelayLimits(**limits))


def connect(one: Swarm, other: Swarm) -> None:
    one.run(one.node.connect(other.peer_id, other.addresses()), 20)


def greet(one: Swarm, other: Swarm) -> HelloAnswer:
    return one.run(one.rpc.call(other.peer_id, "hello", Hello(), HelloAnswer), 20)


def disconnected(one: Swarm, other: Swarm) -> bool:
    return other.peer_id not in one.run(one.node.connected())


def test_peers_that_do_not_listen_talk_both_ways_through_a_relay(harbour: Callable[..., Harbour]) -> None:
    place = harbour()
    one, other = place.hidden(), place.hidden()
    assert one.reach.verdict == other.reach.verdict == "relayed"
    assert one.addresses()
    assert all(map(is_relayed, one.addresses()))
    connect(one, other)
    assert greet(one, other).software == greet(other, one).software
    assert one.reach.verdict == "relayed"


def test_a_stream_to_a_peer_behind_a_relay_opens_the_tunnel_by_itself(harbour: Callable[..., Harbour]) -> None:
    place = harbour()
    one, other = place.hidden(), place.hidden()
    one.node.book.learn(other.peer_id, other.addresses())
    assert greet(one, other)


def test_a_tunnel_is_renewed_before_its_time_is_over(
    harbour: Callable[..., Harbour], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "WORTH_RENEWING", 0.1)
    place = harbour(seconds=2)
    one, other = place.hidden(), place.hidden()
    connect(one, other)
    eventually(lambda: place.carried > 0)  # counted when a tunnel ends
    eventually(lambda: not disconnected(one, other), 30.0)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"tunnels": 0}, "the relay is full"), ({"per_peer": 0}, "too many tunnels of one peer")],
)
def test_a_relay_says_why_it_leads_nowhere(
    harbour: Callable[..., Harbour], limits: dict[str, int], reason: str
) -> None:
    place = harbour(**limits)
    one, other = place.hidden(), place.hidden()
    with pytest.raises(NetworkError) as refusal:
        connect(one, other)
    assert reason in refusal.value.why


def test_a_relay_leads_only_to_peers_that_are_connected_to_it(harbour: Callable[..., Harbour]) -> None:
    place = harbour()
    one, gone = place.hidden(), place.hidden()
    addresses, peer = gone.addresses(), gone.peer_id
    gone.close()
    eventually(lambda: peer not in place.relay.run(place.relay.node.connected()))
    with pytest.raises(NetworkError) as refusal:
        one.run(one.node.connect(peer, addresses), 20)
    assert "that peer is not connected here" in refusal.value.why


def test_nobody_but_its_relays_opens_a_tunnel_to_a_peer(pair: tuple[Swarm, Swarm]) -> None:
    one, other = pair

    async def knock() -> bytes:
        async with one.node.open_stream(other.peer_id, TUNNEL) as (reader, writer):
            writer.write(b"\x13/multistream/1.0.0\n")
            with contextlib.suppress(OSError):
                return await reader.read(100)
        return b""

    assert one.run(knock(), 10) == b""


def test_a_peer_that_was_told_to_be_no_relay_is_none(pair: tuple[Swarm, Swarm]) -> None:
    one, other = pair

    async def ask() -> None:
        async with one.node.open_stream(other.peer_id, RELAY):
            pass

    with pytest.raises(RuntimeError, match="not supported"):
        one.run(ask(), 10)


# Dialling back -------------------------------------------------------------------------------------------------------


def test_a_peer_without_any_relay_that_nobody_reaches_says_so(swarms: Swarms) -> None:
    first = swarms.start()
    hidden = swarms.run(NodeConfig(bootstrap=tuple(first.addresses()), no_listen=True, lan=False))
    assert hidden.reach.verdict == "outgoing only"
    assert hidden.addresses() == []
    assert first.reach.verdict == "loopback"
    assert greet(first, hidden)  # over the connection that the other one opened
    began = time.monotonic()
    hidden.close()
    assert time.monotonic() - began < 10
