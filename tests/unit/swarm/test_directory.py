"""The directory takes only a peer's own signed record, under that peer's name, for that run; and a run's announcement,
under its id, in the list of runs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgpack
import pytest
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord
from hivemind.utils import MSGPackSerializer
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.run import Digest, PeerId, digest_of
from p2ptrain.swarm import Presence, Swarm, clock
from p2ptrain.swarm.announcement import Announcement
from p2ptrain.swarm.directory import LIFETIME, LONGEST_LIFETIME, RUNS, _key, _OnlySelfCertifying
from p2ptrain.swarm.presence import Heartbeat
from tests.unit.swarm.conftest import Swarms
from tests.unit.swarm.people import KEYS, presence_of
from tests.unit.swarm.test_announcement import ANNOUNCED, FORGED, OTHER, genesis_of

ALICE, BOB = KEYS[0], KEYS[1]
VALIDATOR = _OnlySelfCertifying()


def record_of(presence: Presence, lifetime: float = LIFETIME) -> DHTRecord:
    """What hivemind hands to the validator when this presence is stored."""
    return DHTRecord(
        DHTID.generate(source=_key(Digest(presence.run))).to_bytes(),
        MSGPackSerializer.dumps(presence.author),
        MSGPackSerializer.dumps(presence.encoded),
        clock.swarm_time() + lifetime,
    )


def changed(presence: Presence, **changes: object) -> Presence:
    return Presence(**{**dict(presence), **changes})


RECORD = record_of(presence_of(ALICE))


def test_a_peers_own_record_is_taken() -> None:
    assert VALIDATOR.validate(RECORD)


def test_a_record_is_stored_and_returned_unchanged() -> None:
    assert VALIDATOR.sign_value(RECORD) == RECORD.value
    assert VALIDATOR.strip_value(RECORD) == RECORD.value


REFUSED = {
    "under another peer's name": dataclasses.replace(RECORD, subkey=MSGPackSerializer.dumps(BOB.peer_id)),
    "under no name": dataclasses.replace(RECORD, subkey=b""),
    "under a name that is no text": dataclasses.replace(RECORD, subkey=MSGPackSerializer.dumps(7)),
    "under a name that is not msgpack": dataclasses.replace(RECORD, subkey=b"\xc1"),
    "under another run's key": dataclasses.replace(
        RECORD, key=DHTID.generate(source=_key(digest_of(b"another run"))).to_bytes()
    ),
    "of another run": dataclasses.replace(record_of(presence_of(ALICE, run=digest_of(b"other"))), key=RECORD.key),
    "unsigned": record_of(changed(presence_of(ALICE), signature=b"")),
    "signed for something else": record_of(changed(presence_of(ALICE), height=10**6)),
    "signed by somebody else": record_of(changed(presence_of(BOB), author=ALICE.peer_id)),
    "far in the future": record_of(presence_of(ALICE), LONGEST_LIFETIME + 86400),
    "for ever": record_of(presence_of(ALICE), float("inf")),
    "until never": record_of(presence_of(ALICE), float("nan")),
    "another kind of record": dataclasses.replace(
        RECORD, value=MSGPackSerializer.dumps(Heartbeat(presence=presence_of(ALICE), news=b"").encoded)
    ),
    "bare bytes": dataclasses.replace(RECORD, value=presence_of(ALICE).encoded),
    "text": dataclasses.replace(RECORD, value=MSGPackSerializer.dumps("presence")),
    "a list": dataclasses.replace(RECORD, value=MSGPackSerializer.dumps([1])),
    "nothing": dataclasses.replace(RECORD, value=MSGPackSerializer.dumps(None)),
    "no bytes": dataclasses.replace(RECORD, value=b""),
    "too long": dataclasses.replace(RECORD, value=MSGPackSerializer.dumps(bytes(10**6))),
}


@pytest.mark.parametrize("record", REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused(record: DHTRecord) -> None:
    assert not VALIDATOR.validate(record)


@given(st.one_of(st.binary(), st.binary().map(msgpack.packb), st.integers(0, 2**64 - 1).map(msgpack.packb)))
def test_random_values_are_refused_and_never_raise(value: bytes) -> None:
    assert not VALIDATOR.validate(dataclasses.replace(RECORD, value=value))
    assert not VALIDATOR.validate(dataclasses.replace(RECORD, subkey=value))


@given(at=st.integers(0, len(RECORD.value) - 1), bit=st.integers(0, 7))
def test_a_record_with_any_bit_flipped_is_refused(at: int, bit: int) -> None:
    value = bytearray(RECORD.value)
    value[at] ^= 1 << bit
    assert not VALIDATOR.validate(dataclasses.replace(RECORD, value=bytes(value)))


# The list of runs ----------------------------------------------------------------------------------------------------


def entry_of(announcement: Announcement, lifetime: float = LIFETIME) -> DHTRecord:
    """What hivemind hands to the validator when this run is announced."""
    return DHTRecord(
        DHTID.generate(source=RUNS).to_bytes(),
        MSGPackSerializer.dumps(announcement.run),
        MSGPackSerializer.dumps(announcement.encoded),
        clock.swarm_time() + lifetime,
    )


ENTRY = entry_of(ANNOUNCED)
ANOTHER = Announcement(genesis=genesis_of(OTHER), spec=OTHER.canonical())


def test_a_runs_announcement_is_taken_under_its_id() -> None:
    assert VALIDATOR.validate(ENTRY)
    assert VALIDATOR.validate(entry_of(ANOTHER))


NOT_LISTED = {
    **{name: entry_of(forged) for name, forged in FORGED.items()},
    "under another run's id": dataclasses.replace(ENTRY, subkey=MSGPackSerializer.dumps(ANOTHER.run)),
    "under its name": dataclasses.replace(ENTRY, subkey=MSGPackSerializer.dumps("test")),
    "under no id": dataclasses.replace(ENTRY, subkey=MSGPackSerializer.dumps(None)),
    "among a run's peers": dataclasses.replace(ENTRY, key=RECORD.key),
    "a peer among the runs": dataclasses.replace(RECORD, key=ENTRY.key),
    "for ever": entry_of(ANNOUNCED, float("inf")),
    "bare bytes": dataclasses.replace(ENTRY, value=ANNOUNCED.encoded),
    "a genesis alone": dataclasses.replace(ENTRY, value=MSGPackSerializer.dumps(ANNOUNCED.genesis.encoded)),
    "a list": dataclasses.replace(ENTRY, value=MSGPackSerializer.dumps([1])),
    "a map": dataclasses.replace(ENTRY, value=MSGPackSerializer.dumps({"a": 1})),
    "too long": dataclasses.replace(ENTRY, value=MSGPackSerializer.dumps(bytes(10**6))),
}


@pytest.mark.parametrize("record", NOT_LISTED.values(), ids=NOT_LISTED)
def test_nothing_else_gets_into_the_list_of_runs(record: DHTRecord) -> None:
    assert not VALIDATOR.validate(record)


@given(st.one_of(st.binary(), st.binary().map(msgpack.packb), st.integers(0, 2**64 - 1).map(msgpack.packb)))
def test_random_values_are_not_listed_and_never_raise(value: bytes) -> None:
    assert not VALIDATOR.validate(dataclasses.replace(ENTRY, value=value))
    assert not VALIDATOR.validate(dataclasses.replace(ENTRY, subkey=value))


def test_only_the_same_rule_can_be_merged_with_it() -> None:
    assert VALIDATOR.merge_with(_OnlySelfCertifying())
    assert not VALIDATOR.merge_with(object())


# Between real nodes --------------------------------------------------------------------------------------------------

Pair = tuple[Swarm, Swarm]


def announce(swarm: Swarm, **changes: Any) -> bool:
    return swarm.run(swarm.directory.announce(presence_of(swarm.key, **changes)), 10)


def listed(swarm: Swarm, run: Digest) -> dict[PeerId, int]:
    """Who is in the run, and at which height, as this node finds it."""
    return {peer: presence.height for peer, presence in swarm.run(swarm.directory.peers(run), 10).items()}


def test_who_announces_itself_is_found_by_everyone_and_in_this_run_alone(pair: Pair) -> None:
    first, second = pair
    run = digest_of(b"found by everyone")
    assert listed(second, run) == {}
    assert announce(first, run=run, height=1)
    assert announce(second, run=run, height=2)
    assert listed(first, run) == listed(second, run) == {first.peer_id: 1, second.peer_id: 2}
    assert listed(first, digest_of(b"another run")) == {}


def test_a_later_announcement_replaces_the_one_before(pair: Pair) -> None:
    first, second = pair
    run = digest_of(b"replaces")
    for height in (1, 2):
        assert announce(first, run=run, height=height)
    assert listed(second, run) == {first.peer_id: 2}


def test_who_said_goodbye_is_not_listed(pair: Pair) -> None:
    first, second = pair
    run = digest_of(b"goodbye")
    announce(first, run=run)
    announce(first, run=run, phase="leaving")
    assert listed(second, run) == {}


def test_nobody_announces_somebody_else(pair: Pair) -> None:
    first, second = pair
    run = digest_of(b"somebody else")
    announce(first, run=run, height=1)
    forged = changed(presence_of(second.key, run=run, height=9), author=first.peer_id)
    assert not second.run(second.directory.announce(forged), 10)
    assert listed(first, run) == {first.peer_id: 1}


def test_nobody_puts_anything_else_under_a_runs_key(pair: Pair) -> None:
    first, second = pair
    run = digest_of(b"anything else")
    announce(first, run=run, height=1)

    async def store(value: bytes, subkey: str | None) -> bool:
        return bool(await second.directory._dht.store(_key(run), value, clock.swarm_time() + 100, subkey=subkey))

    assert not second.run(store(b"junk", second.peer_id), 10)
    assert not second.run(store(b"junk", None), 10)
    assert listed(first, run) == {first.peer_id: 1}


def run_list(swarm: Swarm) -> dict[Digest, bytes]:
    return {each.run: each.spec for each in swarm.run(swarm.directory.runs(), 10)}


def test_an_announced_run_is_listed_once_for_everyone_whoever_announces_it(swarms: Swarms) -> None:
    first = swarms.start()
    others = [swarms.join(first) for _ in range(3)]
    expected = {each.run: each.spec for each in (ANNOUNCED, ANOTHER)}
    for swarm in (first, *others):
        assert run_list(swarm) == {}
    assert first.run(first.directory.announce_run(ANNOUNCED), 10) >= 3
    assert first.run(first.directory.announce_run(ANOTHER), 10) >= 3
    assert others[0].run(others[0].directory.announce_run(ANNOUNCED), 10) >= 3
    for swarm in (first, *others):
        assert run_list(swarm) == expected


def test_announcing_a_run_does_not_bring_the_list_along(swarms: Swarms) -> None:
    """Who stores asks where the list is, and not for the list."""
    first = swarms.start()
    second = swarms.join(first)
    first.run(first.directory.announce_run(ANNOUNCED), 10)
    found: list[Any] = []
    real = second.directory._dht.protocol.call_find

    async def call_find(peer: Any, keys: Any) -> Any:
        answer = await real(peer, keys)
        found.extend(value for value, _ in answer.values())
        return answer

    second.directory._dht.protocol.call_find = call_find
    assert second.run(second.directory.announce_run(ANOTHER), 10) == 2
    assert found
    assert set(found) == {None}


def test_nobody_lists_a_run_as_what_it_is_not(pair: Pair) -> None:
    first, second = pair
    first.run(first.directory.announce_run(ANNOUNCED), 10)
    ends = clock.swarm_time() + 100

    async def store(value: bytes, subkey: Any, until: float = ends) -> bool:
        return bool(await second.directory._dht.store(RUNS, value, until, subkey=subkey))

    for forged in FORGED.values():
        assert not second.run(store(forged.encoded, forged.run), 10)
        assert not second.run(store(forged.encoded, ANNOUNCED.run), 10)
    assert not second.run(store(ANOTHER.encoded, ANNOUNCED.run), 10)
    assert not second.run(store(b"junk", b"junk"), 10)
    assert not second.run(store(ANNOUNCED.encoded, None), 10)
    assert not second.run(store(ANOTHER.encoded, ANOTHER.run, clock.swarm_time() - 1), 10)
    assert not second.run(store(ANNOUNCED.encoded, ANNOUNCED.run, clock.swarm_time() + 1), 10), "nor ends it"
    assert run_list(first) == run_list(second) == {ANNOUNCED.run: ANNOUNCED.spec}
