"""A node keeps no more for the DHT than it has room for, and nobody's record ends before its time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DHTLocalStorage
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.swarm import clock, storage
from p2ptrain.swarm.storage import BoundedStorage

KEY, OTHER = DHTID.generate(source="a key"), DHTID.generate(source="another key")


class Clock:
    """What hivemind and the storage take for the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("hivemind.utils.timed_storage.get_dht_time", lambda: self.now)
        monkeypatch.setattr(storage, "monotonic", lambda: self.now)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def records(kept: DHTLocalStorage, key: DHTID = KEY) -> dict[str, bytes]:
    found = kept.get(key)
    return {} if found is None else {subkey: record.value for subkey, record in found.value.items()}


def fill(kept: BoundedStorage, key: DHTID, size: int, until: float, name: str = "") -> int:
    """Store records of this size until no more are taken; says how many were."""
    count = 0
    while kept.store_subkey(key, f"{name}{count}", bytes(size), until):
        count += 1
        assert count < 100_000
    return count


def test_records_are_kept_until_they_end(time: Clock) -> None:
    kept = BoundedStorage()
    assert kept.store_subkey(KEY, "alice", b"1", 1060.0)
    assert kept.store(KEY, b"2", 1120.0, subkey="bob")
    assert records(kept) == {"alice": b"1", "bob": b"2"}
    time.now = 1061.0
    assert records(kept) == {"bob": b"2"}
    assert not kept.store_subkey(KEY, "alice", b"old", 1060.0), "it has ended"
    time.now = 1121.0
    assert records(kept) == {}


@pytest.mark.parametrize(("make", "survives"), [(BoundedStorage, True), (DHTLocalStorage, False)])
def test_an_older_copy_does_not_end_a_record(time: Clock, make: Callable[[], DHTLocalStorage], survives: bool) -> None:
    """Who stores a record says how long it lasts, and may be anybody. hivemind alone would drop it."""
    kept = make()
    kept.store_subkey(KEY, "alice", b"record", 1060.0)
    assert not kept.store_subkey(KEY, "alice", b"record", 1001.0)
    time.now = 1002.0
    assert (records(kept) == {"alice": b"record"}) is survives


def test_a_key_that_is_full_takes_nobody_new_and_renews_those_who_are_there(
    time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "KEY_BYTES", 10_000)
    kept = BoundedStorage()
    assert fill(kept, KEY, 100, 1060.0) == 100
    assert kept.store_subkey(KEY, "7", bytes(110), 1080.0), "a record that is renewed may be a little longer"
    assert not kept.store_subkey(KEY, "7", bytes(5000), 1081.0), "but not much"
    assert kept.store_subkey(OTHER, "new", bytes(100), 1060.0), "other keys have room"
    time.now = 1061.0
    assert kept.store_subkey(KEY, "new", bytes(100), 1120.0)
    assert set(records(kept)) == {"7", "new"}


def test_many_keys_share_one_bound_and_what_has_ended_counts_no_more(
    time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "STORAGE_BYTES", 10_000)
    kept = BoundedStorage()
    keys = [DHTID.generate(source=n) for n in range(100)]
    taken = [key for key in keys if kept.store_subkey(key, "spam", bytes(200), 1030.0)]
    assert len(taken) == 50
    assert kept.store_subkey(keys[0], "spam", bytes(200), 1040.0)
    assert not kept.store_subkey(OTHER, "new", bytes(200), 1100.0)
    time.now = 1041.0
    assert kept.store_subkey(OTHER, "new", bytes(200), 1100.0)
    assert len(kept) == 1


def test_renewing_a_record_again_and_again_takes_no_memory(time: Clock) -> None:
    kept = BoundedStorage()
    for step in range(10_000):
        assert kept.store_subkey(KEY, "alice", b"record", 1060.0 + step / 100)
    (found,) = (found.value for _, found in kept.items())
    assert len(found.expiration_heap) < 100
    assert len(kept.expiration_heap) < 100


def test_it_takes_over_what_has_arrived_before() -> None:
    before = DHTLocalStorage()
    before.store_subkey(KEY, "alice", b"1", clock.swarm_time() + 60)
    before.store_subkey(OTHER, "bob", b"2", clock.swarm_time() + 60)
    kept = BoundedStorage(before)
    assert (records(kept), records(kept, OTHER)) == ({"alice": b"1"}, {"bob": b"2"})


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50), st.integers(0, 40))))
def test_each_record_is_the_one_that_lasts_longest(stored: list[tuple[str, int, int]]) -> None:
    """Whatever order they come in, and whatever was compacted meanwhile."""
    now = clock.swarm_time() + 1000
    kept, expected = BoundedStorage(), dict[str, tuple[int, int]]()
    for name, value, lasts in stored:
        taken = kept.store_subkey(KEY, name, bytes([value]), now + lasts)
        assert taken == (name not in expected or lasts > expected[name][1])
        if taken:
            expected[name] = (value, lasts)
    assert records(kept) == {name: bytes([value]) for name, (value, _) in expected.items()}


def test_only_the_presence_of_whom_the_door_knows_is_kept(time: Clock) -> None:
    kept = BoundedStorage(admits=lambda peer: peer == "member")
    until = time.now + 60
    assert kept.store_subkey(KEY, "member", b"here", until)
    assert not kept.store_subkey(KEY, "somebody", b"here", until)
    assert kept.store_subkey(OTHER, b"a run", b"announced", until)
    assert (list(records(kept)), list(records(kept, OTHER))) == (["member"], [b"a run"])
