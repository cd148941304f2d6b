"""What a stranger can have a peer do for measuring: what was asked for, within bounds, and nothing to anybody else."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.run import PeerId, Record
from p2ptrain.swarm import NodeConfig, Refused, RpcError, Swarm, probe
from p2ptrain.swarm.probe import (
    DOWN_BYTES,
    PORTS_PER_CALL,
    UP_BYTES,
    DialBack,
    DialBackAnswer,
    Probes,
    Quota,
    SendMe,
    Taken,
    TakeThis,
    ask_to_dial_back,
    direct_ip,
    measure_down,
    measure_up,
)
from p2ptrain.swarm.rpc import RateLimit
from tests.unit.swarm.calls import frames_of
from tests.unit.swarm.conftest import LOOPBACK, eventually

Pair = tuple[Swarm, Swarm]


def port_of(swarm: Swarm) -> int:
    return int(swarm.addresses()[0].split("/")[4])


# Records -------------------------------------------------------------------------------------------------------------

ports = st.one_of(st.just(443), st.integers(1024, 65535))
ips = st.ip_addresses().map(str)
records: st.SearchStrategy[Record] = st.one_of(
    st.builds(DialBack, ports=st.lists(ports, min_size=1, max_size=PORTS_PER_CALL).map(tuple)),
    st.builds(DialBackAnswer, seen=ips, reached=st.lists(ports, max_size=PORTS_PER_CALL).map(tuple)),
    st.builds(SendMe, size=st.integers(1, DOWN_BYTES)),
    st.builds(TakeThis, data=st.binary(max_size=200)),
    st.builds(Taken, size=st.integers(0, 2**53 - 1)),
)


@given(records)
def test_a_record_fits_its_bound_and_comes_back_as_it_was(record: Record) -> None:
    assert len(record.encoded) <= record.max_bytes
    assert type(record).decode(record.encoded) == record


@given(record=records, at=st.integers(0, 2000), byte=st.integers(0, 255), cut=st.integers(0, 2))
def test_a_damaged_record_is_refused_or_means_itself(record: Record, at: int, byte: int, cut: int) -> None:
    at %= len(record.encoded)
    data = record.encoded[:at] + bytes([byte]) + record.encoded[at + cut :]
    try:
        found = type(record).decode(data)
    except MalformedError:
        return
    assert found.encoded == data


def test_the_largest_measure_fits_its_bound() -> None:
    assert TakeThis.decode(TakeThis(data=bytes(UP_BYTES)).encoded).data == bytes(UP_BYTES)


@pytest.mark.parametrize("wrong", [(22,), (0,), (65536,), (1023,), (443, 80), (2000, 2001, 2002, 2003, 2004)])
def test_ports_of_well_known_services_and_long_lists_are_refused(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ports"):
        DialBack(ports=wrong)


@pytest.mark.parametrize("wrong", ["example.org", "", "1.2.3", "::0001", "1.2.3.4 "])
def test_what_is_no_ip_can_not_be_claimed_to_be_seen(wrong: str) -> None:
    with pytest.raises(ValueError, match="seen"):
        DialBackAnswer(seen=wrong, reached=(), relays=False)


# Whose address -------------------------------------------------------------------------------------------------------


@given(ips, st.integers(0, 65535))
def test_a_direct_connection_shows_its_ip(ip: str, port: int) -> None:
    address = ipaddress.ip_address(ip)
    code = b"\x04" if address.version == 4 else b"\x29"
    data = code + address.packed + b"\x06" + port.to_bytes(2, "big")
    assert direct_ip(data) == ip
    relay = bytes.fromhex("a503260024080112") + bytes(32)
    for more in (relay + b"\xa2\x02", b"\xa2\x02", b"\x00"):
        assert direct_ip(data + more) is None, "after a relay's address more follows"


@given(st.binary(max_size=60))
def test_any_bytes_are_an_ip_or_none(data: bytes) -> None:
    found = direct_ip(data)
    assert found is None or str(ipaddress.ip_address(found)) == found


# Bounds --------------------------------------------------------------------------------------------------------------


def passes(quota: Quota, ip: str, now: float) -> bool:
    try:
        with quota.passing(ip, now):
            return True
    except Refused:
        return False


def test_one_place_gets_its_burst_and_then_waits() -> None:
    quota = Quota(RateLimit(1 / 30, 3), RateLimit(10, 100), at_once=1)
    assert [passes(quota, "203.0.113.7", 1000.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert passes(quota, "203.0.113.8", 1000.0)
    assert [passes(quota, "203.0.113.7", 1030.0) for _ in range(2)] == [True, False]


def test_many_places_together_get_no_more_than_the_total() -> None:
    quota = Quota(RateLimit(1, 1), RateLimit(1 / 5, 6), at_once=1)
    assert sum(passes(quota, f"203.0.113.{n}", 1000.0) for n in range(100)) == 6


def test_who_is_refused_for_its_own_haste_uses_nothing_of_the_others() -> None:
    quota = Quota(RateLimit(1 / 1000, 1), RateLimit(1 / 1000, 2), at_once=1)
    assert [passes(quota, "203.0.113.7", 1000.0) for _ in range(50)].count(True) == 1
    assert passes(quota, "203.0.113.8", 1000.0)


def test_a_home_with_many_ipv6_addresses_is_one_place() -> None:
    quota = Quota(RateLimit(1 / 1000, 1), RateLimit(10, 100), at_once=1)
    assert [passes(quota, f"2001:db8::{n:x}", 1000.0) for n in (1, 2, 0xFFFF)] == [True, False, False]
    assert passes(quota, "2001:db8:0:1::1", 1000.0)


def test_no_more_than_so_many_are_served_at_once() -> None:
    quota = Quota(RateLimit(10, 100), RateLimit(10, 100), at_once=1)
    with quota.passing("203.0.113.7", 1000.0):
        assert not passes(quota, "203.0.113.8", 1000.0)
    assert passes(quota, "203.0.113.8", 1000.0)


# Dialling back -------------------------------------------------------------------------------------------------------


def dial(pair: Pair, *claimed: int) -> DialBackAnswer:
    answering, asking = pair
    return asking.run(ask_to_dial_back(asking.rpc, answering.peer_id, claimed), 20)


@pytest.fixture
def fresh(pair: Pair) -> Pair:
    """Peers with all their bursts still to use."""
    new, served = Probes(pair[0].node, NodeConfig(listen=(LOOPBACK,))), pair[0].probes
    served._dial_quota, served._down_quota, served._up_quota = new._dial_quota, new._down_quota, new._up_quota
    served.pace = new.pace
    return pair


def test_a_peer_is_reached_at_its_own_port_and_told_its_address(fresh: Pair) -> None:
    answering, asking = pair = fresh
    assert dial(pair, port_of(asking)) == DialBackAnswer(seen="127.0.0.1", reached=(port_of(asking),), relays=False)
    answer = dial(pair, port_of(answering), 9999, port_of(asking))
    assert answer.reached == (port_of(asking),), "another peer's port and a closed one look the same"
    assert dial(pair, port_of(answering)).reached == ()
    for _ in range(5):
        dial(pair, port_of(answering))
    with pytest.raises(RpcError, match="asked too often"):
        dial(pair, port_of(asking))


def test_an_answer_about_other_ports_is_not_believed(fresh: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    answering, asking = fresh

    async def lie(_peer: PeerId, _request: DialBack) -> DialBackAnswer:
        return DialBackAnswer(seen="192.0.2.1", reached=(31337,), relays=False)

    answering.run(answering.rpc.serve("a-lie", DialBack, lie))
    monkeypatch.setattr(probe, "DIAL_BACK", "a-lie")
    with pytest.raises(RpcError, match="other ports"):
        dial((answering, asking), 4001)


# Measuring -----------------------------------------------------------------------------------------------------------


def test_bytes_are_measured_both_ways_and_at_the_volunteers_pace(fresh: Pair) -> None:
    answering, asking = fresh
    paced: list[int] = []

    async def pace(count: int) -> None:
        paced.append(count)

    answering.probes.pace = pace
    assert asking.run(measure_down(asking.rpc, answering.peer_id), 20) > 0
    assert sum(paced) == DOWN_BYTES
    assert asking.run(measure_up(asking.rpc, answering.peer_id, 0.001), 20) > 0


def test_a_measurement_ends_in_time_and_frees_its_place(fresh: Pair) -> None:
    answering, asking = fresh

    async def crawl(_count: int) -> None:
        await asyncio.sleep(0.02)

    answering.probes.pace = crawl
    assert asking.run(measure_down(asking.rpc, answering.peer_id, seconds=0.1), 20) > 0
    eventually(lambda: answering.probes._down_quota._free == 1)


def test_more_is_not_sent_than_is_allowed(fresh: Pair) -> None:
    answering, asking = fresh
    with pytest.raises(RpcError, match="refused"):  # it asks with another kind of record
        asking.run(frames_of(asking.rpc, answering.peer_id, probe.PROBE_DOWN, 1), 20)
    for _ in range(2):
        asking.run(measure_down(asking.rpc, answering.peer_id), 20)
    with pytest.raises(RpcError, match="asked too often"):
        asking.run(measure_down(asking.rpc, answering.peer_id), 20)
