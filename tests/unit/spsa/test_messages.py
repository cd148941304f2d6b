"""Batches on the wire and in a ledger, and what proves that an author lied."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest
from p2ptrain.spsa.messages import FIRST, MOST_RECORDS, Equivocation, LogBatch
from tests.unit.diloco.samples import KEY_OF, PEERS
from tests.unit.spsa.samples import RUN, Author, codes, log_of

valid_codes = st.lists(st.integers(-127, 127), min_size=1, max_size=MOST_RECORDS)
counts = st.integers(0, 2**40 - 1)


@given(start=counts, clock=counts, values=valid_codes, session=st.integers(0, 2**64 - 1))
def test_a_batch_comes_back_from_the_wire_and_from_the_ledger(
    start: int, clock: int, values: list[int], session: int
) -> None:
    made = LogBatch(log_of(PEERS[1], session), start, clock, codes(*values)).signed(RUN, FIRST, KEY_OF[PEERS[1]])
    assert LogBatch.decode(made.encoded) == made
    assert LogBatch.restore(made.log, made.start, made.stored) == made
    assert [int.from_bytes([code], signed=True) for code in made.codes] == values
    assert made.stop == start + len(values)


def test_64_records_take_three_bytes_each() -> None:
    author = Author(PEERS[0])
    assert len(author.say(*range(64), clock=2**39).encoded) <= 192


@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_or_are_exactly_a_batch(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert LogBatch.decode(data).encoded == data


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(at: int, bit: int) -> None:
    author = Author(PEERS[0])
    author.say(1, 2, 3)
    good = bytearray(author.say(5, 6, 7, clock=9).encoded)
    good[at % len(good)] ^= 1 << bit
    try:
        harmed = LogBatch.decode(bytes(good))
    except MalformedError:
        return
    assert not harmed.follows(RUN, author.batches[0].digest)


@given(kept=st.integers(0, 200))
def test_a_truncated_batch_is_refused(kept: int) -> None:
    whole = Author(PEERS[0]).say(*range(80)).encoded
    with pytest.raises(MalformedError):
        LogBatch.decode(whole[: min(kept, len(whole) - 1)])


def test_a_code_that_there_is_none_of_is_refused() -> None:
    batch = Author(PEERS[0]).say(1, -128, 2)
    with pytest.raises(MalformedError, match="the code -128, which is not used"):
        LogBatch.decode(batch.encoded)


def test_more_records_than_allowed_are_refused() -> None:
    with pytest.raises(MalformedError, match="impossible length"):
        LogBatch.decode(Author(PEERS[0]).say(*([1] * (MOST_RECORDS + 1))).encoded)


def test_a_signature_holds_for_one_run_one_place_and_one_author() -> None:
    author = Author(PEERS[0])
    first, second = author.say(1), author.say(2)
    assert second.follows(RUN, first.digest)
    assert not second.follows(Digest(b"x" * 32), first.digest)
    assert not second.follows(RUN, FIRST)
    assert not replace(second, start=7).follows(RUN, first.digest)
    assert not replace(second, clock=7).follows(RUN, first.digest)
    assert not replace(second, log=log_of(PEERS[1])).follows(RUN, first.digest)


def test_two_batches_for_one_place_prove_a_lie_to_anybody() -> None:
    author = Author(PEERS[1])
    first, said = author.say(1, 2), author.say(3, 4, 5)
    other = author.say_again(1, 9)
    proof = Equivocation(run=RUN, before=first.digest, one=said.encoded, other=other.encoded)
    assert Equivocation.decode(proof.encoded).proven() == (author.log, 2)


def test_what_proves_nothing_is_refused() -> None:
    author, another = Author(PEERS[1]), Author(PEERS[2])
    first, said = author.say(1, 2), author.say(3)
    forged = replace(said, codes=codes(9))
    elsewhere = another.say(1, 2)
    for before, one, other in (
        (first.digest, said, said),
        (first.digest, said, forged),
        (FIRST, first, said),
        (FIRST, first, elsewhere),
        (FIRST, said, author.say_again(1, 7)),
    ):
        with pytest.raises(MalformedError):
            Equivocation(run=RUN, before=before, one=one.encoded, other=other.encoded).proven()
