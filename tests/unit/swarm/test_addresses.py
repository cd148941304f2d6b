"""What libp2p addresses say."""

from __future__ import annotations

import pytest

from p2ptrain.errors import UsageError
from p2ptrain.run import PeerId
from p2ptrain.swarm.addresses import (
    MAX_KNOWN,
    AddressBook,
    address_parts,
    by_peer,
    host_of,
    is_relayed,
    likeliest_first,
    peer_of,
    relay_of,
    through,
    what_is_wrong,
)
from p2ptrain.swarm.config import NodeConfig

RELAY = "/ip4/8.8.8.8/tcp/31337/p2p/relay"


def test_a_relayed_address_names_the_peer_and_where_the_relay_is() -> None:
    address = through(RELAY, PeerId("peer"))
    assert address == "/ip4/8.8.8.8/tcp/31337/p2p/relay/p2p-circuit/p2p/peer"
    assert is_relayed(address)
    assert peer_of(address) == "peer"
    assert relay_of(address) == RELAY
    assert by_peer([address, RELAY, "/ip4/10.0.0.1/tcp/1/p2p/peer"]) == {
        "peer": [address, "/ip4/10.0.0.1/tcp/1/p2p/peer"],
        "relay": [RELAY],
    }


def test_only_direct_addresses_have_a_host() -> None:
    assert str(host_of(RELAY)) == "8.8.8.8"
    for address in (through(RELAY, PeerId("peer")), "/dns4/example.org/tcp/1", "/ip4/nonsense/tcp/1", ""):
        assert host_of(address) is None


@pytest.mark.parametrize("port", ["65536", "\u00b2", "1" * 5000, "-1", ""])
def test_a_port_is_a_number_below_65536_whatever_others_write(port: str) -> None:
    assert address_parts(f"/ip4/8.8.8.8/tcp/{port}") is None


def test_an_address_that_p2pd_would_not_take_is_refused_before_anything_starts() -> None:
    for address in (
        "foo",
        "",
        "/ip4/1.2.3/tcp/1",
        "/ip4/1.2.3.4",
        "/ip4/1.2.3.4/tcp/99999",
        "/unix/tmp/x",
        "/dns4//tcp/1",
    ):
        assert what_is_wrong(address)
        with pytest.raises(UsageError, match="can't announce"):
            NodeConfig(announce=(address,))
        with pytest.raises(UsageError, match="can't listen at"):
            NodeConfig(listen=(address,))
    for address in (
        "/dns4/example.org/tcp/31337",
        "/ip6/2001:db8::7/udp/1/quic-v1",
        "/dnsaddr/example.org",
    ):
        assert not what_is_wrong(address), address


def test_those_that_work_for_most_come_first() -> None:
    public, private, own = "/ip6/2001:4860:4860::8888/tcp/1", "/ip4/192.168.1.5/tcp/1", "/ip4/127.0.0.1/tcp/1"
    relayed = through(RELAY, PeerId("peer"))
    assert likeliest_first([own, private, relayed, public, own]) == [public, relayed, private, own]


def test_the_address_book_knows_who_is_behind_which_relay_and_forgets_the_oldest() -> None:
    book = AddressBook()
    direct, relayed = "/ip4/192.168.1.5/tcp/1/p2p/one", through(RELAY, PeerId("one"))
    book.learn(PeerId("one"), [direct])
    assert "one" not in book
    book.learn(PeerId("one"), [direct, relayed])
    book.learn(PeerId("two"), [through(RELAY, PeerId("two"))])
    assert book[PeerId("one")] == (direct, relayed)
    assert book.relays() == {"relay": [RELAY]}
    for number in range(MAX_KNOWN):
        book.learn(PeerId(str(number)), [relayed])
    assert "one" not in book
    book.learn(PeerId("0"), [])  # it does not need a relay any more
    assert "0" not in book
