"""Sealed gossip is read by whoever has the key, once, and says what its sender has said there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.run import digest_of
from p2ptrain.run.access import Epoch
from p2ptrain.swarm.seal import GRACE, OVERHEAD, Replays, Seal, UnknownEpochError
from tests.unit.swarm.people import KEYS, RUN

ONE, OTHER = KEYS[0].peer_id, KEYS[1].peer_id
EPOCHS = [Epoch(bytes([n]) * 8, bytes([n]) * 32) for n in range(1, 4)]


def seal_of(peer: str = ONE, boot: int = 1, run: bytes = RUN, epoch: Epoch | None = EPOCHS[0]) -> Seal:
    made = Seal(run, peer)  # type: ignore[arg-type]
    made.boot = boot
    if epoch is not None:
        made.use(epoch, 0.0)
    return made


@given(st.binary(max_size=2000))
def test_what_one_member_seals_another_one_opens(message: bytes) -> None:
    sealed = seal_of(ONE).seal("topic", message)
    assert len(sealed) == len(message) + OVERHEAD
    assert seal_of(OTHER).open("topic", ONE, sealed, 0.0) == message


def test_the_same_words_never_look_the_same_and_show_nothing_of_themselves() -> None:
    one = seal_of(ONE)
    said = [one.seal("topic", b"the same words") for _ in range(100)]
    assert len(set(said)) == 100
    assert not any(b"same" in data for data in said)


MISUSES = {
    "as another sender's": ("topic", OTHER),
    "on another topic": ("another topic", ONE),
}


@pytest.mark.parametrize(("topic", "sender"), MISUSES.values(), ids=MISUSES)
def test_a_seal_holds_for_one_sender_on_one_topic(topic: str, sender: str) -> None:
    sealed = seal_of(ONE).seal("topic", b"words")
    with pytest.raises(MalformedError, match="seal is broken"):
        seal_of(OTHER).open(topic, sender, sealed, 0.0)  # type: ignore[arg-type]


def test_another_run_with_the_same_key_is_another_run() -> None:
    sealed = seal_of(ONE, run=digest_of(b"another")).seal("topic", b"words")
    with pytest.raises(MalformedError, match="seal is broken"):
        seal_of(OTHER).open("topic", ONE, sealed, 0.0)


@given(st.data())
def test_a_flipped_bit_breaks_the_seal(data: st.DataObject) -> None:
    sealed = bytearray(seal_of(ONE).seal("topic", b"words"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MalformedError):
        seal_of(OTHER).open("topic", ONE, bytes(sealed), 0.0)


@given(st.binary(max_size=200))
def test_random_bytes_are_nothing(data: bytes) -> None:
    with pytest.raises(MalformedError):
        seal_of(OTHER).open("topic", ONE, data, 0.0)
    with pytest.raises(MalformedError):
        seal_of(OTHER).open("topic", ONE, EPOCHS[0].name + data, 0.0)


def test_a_key_that_was_given_up_is_read_for_a_minute_and_sealed_with_no_more() -> None:
    one, other = seal_of(ONE), seal_of(OTHER)
    old = [one.seal("topic", b"old") for _ in range(2)]
    other.use(EPOCHS[1], 100.0)
    assert other.open("topic", ONE, old[0], 100.0 + GRACE) == b"old"
    with pytest.raises(UnknownEpochError):
        other.open("topic", ONE, old[1], 100.0 + GRACE + 1)
    with pytest.raises(UnknownEpochError):
        one.open("topic", OTHER, other.seal("topic", b"new"), 0.0)
    one.use(EPOCHS[1], 200.0)
    assert one.open("topic", OTHER, other.seal("topic", b"new"), 200.0) == b"new"


def test_nothing_can_be_sealed_without_a_key() -> None:
    assert seal_of(epoch=None).seal("topic", b"hello") is None
    assert seal_of().seal("topic", b"hello")


# Heard again ---------------------------------------------------------------------------------------------------------


def test_a_message_that_is_heard_again_is_not_taken() -> None:
    one, other = seal_of(ONE), seal_of(OTHER)
    said = [one.seal("topic", bytes([n])) for n in range(3)]
    for n in (1, 0, 2):  # by several ways
        assert other.open("topic", ONE, said[n], 0.0) == bytes([n])
    for data in said:
        with pytest.raises(MalformedError, match="heard before"):
            other.open("topic", ONE, data, 0.0)


def test_what_a_peer_said_before_its_last_start_is_not_taken_any_more() -> None:
    other = seal_of(OTHER)
    old = seal_of(ONE, boot=1).seal("topic", b"old")
    assert other.open("topic", ONE, seal_of(ONE, boot=2).seal("topic", b"new"), 0.0) == b"new"
    with pytest.raises(MalformedError, match="heard before"):
        other.open("topic", ONE, old, 0.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 600)), max_size=300))
def test_no_number_is_taken_twice_and_all_that_come_in_order_are(heard: list[tuple[int, int]]) -> None:
    replays, taken = Replays(), []
    for boot, count in heard:
        before = taken[:]
        new = replays.is_new(ONE, boot, count)
        if not before or (boot, count) > max(before):
            assert new, "what is newer than everything is always taken"
        if (boot, count) in before:
            assert not new
        taken += [(boot, count)] if new else []


def test_senders_are_counted_apart() -> None:
    replays = Replays()
    assert [replays.is_new(peer, 1, 1) for peer in (ONE, OTHER, ONE)] == [True, True, False]
