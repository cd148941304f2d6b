"""A record has exactly one encoding; everything else that the network may send is refused, always in the same way."""

from __future__ import annotations

import contextlib
import struct
from typing import Annotated, Any, ClassVar

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from p2ptrain.errors import MalformedError
from p2ptrain.run import Record, SignedRecord, SigningKey, digest_of
from p2ptrain.run.record import Count, DigestField, Number, PeerIdField, Text, kind_of
from p2ptrain.text import printable

KEY, OTHER_KEY = SigningKey.generate(), SigningKey.generate()

WORDS = st.text(max_size=200).map(lambda text: printable(text).replace("\n", " ").replace("\t", " "))


class Inner(Record):
    kind: ClassVar[str] = "inner/1"

    count: Count
    flag: bool


class Sample(Record):
    """One field of each sort that the records of p2ptrain are made of."""

    kind: ClassVar[str] = "sample/1"
    max_bytes: ClassVar[int] = 2000

    count: Count
    number: Number
    text: Text
    data: Annotated[bytes, Field(max_length=100)]
    digest_of_it: DigestField
    peer: PeerIdField
    maybe: Number | None
    pairs: Annotated[tuple[tuple[Count, DigestField], ...], Field(max_length=3)]
    inner: Inner


class Letter(SignedRecord):
    kind: ClassVar[str] = "letter/1"

    to: PeerIdField
    text: Text
    numbers: tuple[Count, ...]


class Card(Letter):
    """The same fields under another name."""

    kind: ClassVar[str] = "card/1"


counts = st.integers(0, 2**53 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
digests = st.binary(min_size=32, max_size=32)
samples = st.builds(
    Sample,
    count=counts,
    number=numbers,
    text=WORDS,
    data=st.binary(max_size=100),
    digest_of_it=digests,
    peer=st.sampled_from([KEY.peer_id, OTHER_KEY.peer_id]),
    maybe=st.none() | numbers,
    pairs=st.lists(st.tuples(counts, digests), max_size=3).map(tuple),
    inner=st.builds(Inner, count=counts, flag=st.booleans()),
)
letters = st.builds(
    Letter,
    author=st.just(KEY.peer_id),
    to=st.just(OTHER_KEY.peer_id),
    text=WORDS,
    numbers=st.lists(counts, max_size=5).map(tuple),
)

SAMPLE = Sample(
    count=5,
    number=0.5,
    text="text",
    data=b"data",
    digest_of_it=digest_of(b""),
    peer=KEY.peer_id,
    maybe=None,
    pairs=((1, digest_of(b"1")),),
    inner=Inner(count=1, flag=True),
)
LETTER = Letter(author=KEY.peer_id, to=OTHER_KEY.peer_id, text="text", numbers=(1, 2))


def packed(**changes: Any) -> bytes:
    """SAMPLE's encoding with some fields changed, not checked by anything."""
    data: bytes = msgpack.packb(["sample/1", SAMPLE.model_dump() | changes])
    return data


# One encoding --------------------------------------------------------------------------------------------------------


@given(st.one_of(samples, letters.map(lambda letter: letter.signed(KEY))))
def test_any_record_survives_the_wire(record: Record) -> None:
    again = type(record).decode(record.encoded)
    assert again == record
    assert again.encoded == record.encoded
    assert again.digest == record.digest == digest_of(record.encoded)


def long_form(value: Any) -> bytes:
    """msgpack with every length and integer in its longest encoding."""
    match value:
        case bool() | None:
            plain: bytes = msgpack.packb(value)
            return plain
        case int():
            return b"\xcf" + struct.pack(">Q", value)
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case str():
            return b"\xdb" + struct.pack(">I", len(value.encode())) + value.encode()
        case bytes():
            return b"\xc6" + struct.pack(">I", len(value)) + value
        case dict():
            parts = [long_form(key) + long_form(part) for key, part in value.items()]
            return b"\xdf" + struct.pack(">I", len(value)) + b"".join(parts)
        case _:
            return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(long_form, value))


@given(samples)
def test_longer_encodings_of_the_same_values_are_refused(record: Sample) -> None:
    data = long_form(["sample/1", record.model_dump()])
    assert msgpack.unpackb(data, use_list=False) == msgpack.unpackb(record.encoded, use_list=False)
    with pytest.raises(MalformedError, match=r"canonical form|too long"):
        Sample.decode(data)


NOT_CANONICAL = {
    "one integer in nine bytes": SAMPLE.encoded.replace(b"\xa5count\x05", b"\xa5count\xcf" + bytes(7) + b"\x05", 1),
    "a short float": SAMPLE.encoded.replace(b"\xcb\x3f\xe0" + bytes(6), b"\xca\x3f\x00\x00\x00"),
    "an integer for a float": packed(number=1),
    "reordered fields": msgpack.packb(["sample/1", dict(reversed(SAMPLE.model_dump().items()))]),
    "reordered inner fields": packed(inner={"flag": True, "count": 1}),
    "a field given twice": SAMPLE.encoded.replace(b"\x89\xa5count\x05", b"\x8a\xa5count\x07\xa5count\x05"),
}


@pytest.mark.parametrize("data", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
def test_a_record_has_only_one_encoding(data: bytes) -> None:
    assert data != SAMPLE.encoded
    assert msgpack.unpackb(data)[0] == "sample/1"
    with pytest.raises(MalformedError, match="not in its canonical form"):
        Sample.decode(data)


# Wrong content -------------------------------------------------------------------------------------------------------

WRONG = {
    "a negative count": ("count", -1),
    "a count that floats can't hold": ("count", 2**53),
    "a boolean for a count": ("count", True),
    "a float for a count": ("count", 1.0),
    "text for a count": ("count", "5"),
    "not a number": ("number", float("nan")),
    "infinity": ("maybe", float("inf")),
    "text too long": ("text", "x" * 201),
    "bytes for text": ("text", b"text"),
    "text for bytes": ("data", "data"),
    "bytes too long": ("data", bytes(101)),
    "a short digest": ("digest_of_it", bytes(31)),
    "a long digest": ("digest_of_it", bytes(33)),
    "no peer id": ("peer", "alice"),
    "too many pairs": ("pairs", [(1, bytes(32))] * 4),
    "a triple for a pair": ("pairs", [(1, bytes(32), 2)]),
    "a single for a pair": ("pairs", [(1,)]),
    "a map for a list": ("pairs", {}),
    "nothing for a list": ("pairs", None),
    "an inner field too many": ("inner", {"count": 1, "flag": True, "more": 1}),
    "an inner field missing": ("inner", {"count": 1}),
    "an inner list": ("inner", [1, True]),
    "a timestamp": ("count", msgpack.Timestamp(1, 1)),
    "an extension": ("data", msgpack.ExtType(5, b"data")),
}


@pytest.mark.parametrize(("field", "value"), WRONG.values(), ids=WRONG)
def test_a_field_that_breaks_its_bounds_is_named(field: str, value: object) -> None:
    with pytest.raises(MalformedError, match=f"a sample/1 record is wrong in '{field}") as refusal:
        Sample.decode(packed(**{field: value}))
    assert refusal.value.why


@pytest.mark.parametrize("field", Sample.model_fields)
def test_a_missing_field_is_named(field: str) -> None:
    fields = SAMPLE.model_dump()
    del fields[field]
    with pytest.raises(MalformedError, match=f"wrong in '{field}'"):
        Sample.decode(msgpack.packb(["sample/1", fields]))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(MalformedError, match="wrong in 'surprise'"):
        Sample.decode(packed(surprise=1))


NOT_A_RECORD = {
    "nothing": b"",
    "truncated": SAMPLE.encoded[:-1],
    "trailing bytes": SAMPLE.encoded + b"\xc0",
    "kind alone": msgpack.packb(["sample/1"]),
    "three parts": msgpack.packb(["sample/1", SAMPLE.model_dump(), None]),
    "another kind": msgpack.packb(["sample/2", SAMPLE.model_dump()]),
    "a kind of bytes": msgpack.packb([b"sample/1", SAMPLE.model_dump()]),
    "fields in a list": msgpack.packb(["sample/1", list(SAMPLE.model_dump().values())]),
    "no fields": msgpack.packb(["sample/1", {}]),
    "a number for a name": msgpack.packb(["sample/1", {1: 2}]),
    "bytes for a name": msgpack.packb(["sample/1", {b"count": 2}]),
    "not UTF-8": SAMPLE.encoded.replace(b"\xa4text\xa4text", b"\xa4text\xa4te\xfft"),
    "a list that never ends": b"\xdd\xff\xff\xff\xff",
    "a byte string that never ends": b"\x92\xa8sample/1\xc6\xff\xff\xff\xff",
    "deep lists": b"\x92\xa8sample/1" + b"\x91" * 1900,
    "deep maps": b"\x92\xa8sample/1" + b"\x81\xa1x" * 600,
    "deep in a field": packed(pairs=[[[[[[1]]]]]]),
    "an unused byte": b"\xc1",
}


@pytest.mark.parametrize("data", NOT_A_RECORD.values(), ids=NOT_A_RECORD)
def test_what_is_no_record_of_its_kind_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match="sample/1"):
        Sample.decode(data)


def test_a_record_is_as_long_as_it_may_be_and_not_longer() -> None:
    class Tight(Record):
        kind: ClassVar[str] = "tight/1"
        max_bytes: ClassVar[int] = 20
        data: bytes

    room = 20 - len(Tight(data=b"").encoded)
    assert Tight.decode(Tight(data=bytes(room)).encoded).data == bytes(room)
    with pytest.raises(MalformedError, match="a tight/1 record is too long"):
        Tight.decode(Tight(data=bytes(room + 1)).encoded)


@given(st.binary(max_size=2100))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Sample.decode(data)


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def assert_refused_or_means_itself(data: bytes) -> None:
    try:
        record = Sample.decode(data)
    except MalformedError:
        return
    assert record.encoded == data


@given(field=st.sampled_from(sorted(Sample.model_fields)), value=anything)
def test_any_value_in_a_field_is_refused_or_means_itself(field: str, value: object) -> None:
    assert_refused_or_means_itself(packed(**{field: value}))


@given(record=samples, at=st.integers(0, 2000), byte=st.integers(0, 255), cut=st.integers(0, 2))
def test_damaged_records_are_refused_or_mean_themselves(record: Sample, at: int, byte: int, cut: int) -> None:
    at %= len(record.encoded)
    assert_refused_or_means_itself(record.encoded[:at] + bytes([byte]) + record.encoded[at + cut :])


# Signatures ----------------------------------------------------------------------------------------------------------


def test_a_signed_record_passes_and_an_unsigned_one_does_not() -> None:
    signed = LETTER.signed(KEY)
    assert Letter.decode(signed.encoded).check_signature() == signed
    with pytest.raises(MalformedError, match="not signed by its author") as refusal:
        Letter.decode(LETTER.encoded).check_signature()
    assert refusal.value.why == KEY.peer_id


CHANGES = {"author": OTHER_KEY.peer_id, "to": KEY.peer_id, "text": "texts", "numbers": (2, 1)}


def test_the_signature_covers_every_field() -> None:
    assert CHANGES.keys() == Letter.model_fields.keys() - {"signature"}
    signed = LETTER.signed(KEY)
    for field, value in CHANGES.items():
        forged = Letter(**{**signed.model_dump(), field: value})
        with pytest.raises(MalformedError, match="not signed by its author"):
            forged.check_signature()


def test_a_signature_is_worth_nothing_on_another_kind_of_record() -> None:
    with pytest.raises(MalformedError, match="a card/1 record is not signed"):
        Card(**LETTER.signed(KEY).model_dump()).check_signature()


@pytest.mark.parametrize("length", [0, 63])
def test_a_truncated_signature_is_refused(length: int) -> None:
    forged = Letter(**{**LETTER.model_dump(), "signature": LETTER.signed(KEY).signature[:length]})
    with pytest.raises(MalformedError, match="not signed by its author"):
        Letter.decode(forged.encoded).check_signature()


def test_a_signature_that_is_too_long_is_refused_at_decoding() -> None:
    data = msgpack.packb(["letter/1", LETTER.signed(KEY).model_dump() | {"signature": bytes(65)}])
    with pytest.raises(MalformedError, match="wrong in 'signature'"):
        Letter.decode(data)


def test_nobody_signs_for_somebody_else() -> None:
    with pytest.raises(ValueError, match="can't sign for"):
        LETTER.signed(OTHER_KEY)


@given(letters)
def test_the_signed_copy_has_its_own_encoding_and_digest(letter: Letter) -> None:
    unsigned = letter.encoded, letter.digest  # computed and kept before the copy is made
    signed = letter.signed(KEY)
    assert signed.encoded == msgpack.packb(["letter/1", signed.model_dump()])
    assert (signed.encoded, signed.digest) != unsigned
    assert signed.digest == digest_of(signed.encoded)
    assert signed.signed(KEY).encoded == signed.encoded


# A kind alone --------------------------------------------------------------------------------------------------------


def test_a_records_kind_is_read_from_its_first_bytes() -> None:
    inner = Inner(count=1, flag=True)
    assert kind_of(inner.encoded) == Inner.kind
    assert kind_of(inner.encoded[:9]) == Inner.kind
    assert kind_of(msgpack.packb(["commit/1", {}])) == "commit/1"


NO_RECORDS = {
    "nothing": b"",
    "an empty list": msgpack.packb([]),
    "a map": msgpack.packb({"heartbeat/1": 1}),
    "a number": msgpack.packb(7),
    "text": msgpack.packb("heartbeat/1"),
    "a number for a kind": msgpack.packb([1, {}]),
    "bytes for a kind": msgpack.packb([b"heartbeat/1", {}]),
    "a list for a kind": msgpack.packb([["heartbeat/1"], {}]),
    "a kind that is too long": msgpack.packb(["k" * 41, {}]),
    "a kind that never ends": b"\x92\xdb\xff\xff\xff\xff",
    "a kind that is not UTF-8": b"\x92\xa2\xff\xff",
    "deep lists": b"\x91" * 60_000,
    "deep maps": b"\x91" + b"\x81\xa1x" * 20_000,
    "a list as a key": b"\x91\x81\x91\x01\x01",
    "an unused byte": b"\xc1",
}


@pytest.mark.parametrize("data", NO_RECORDS.values(), ids=NO_RECORDS)
def test_what_is_no_record_has_no_kind(data: bytes) -> None:
    with pytest.raises(MalformedError, match="no record"):
        kind_of(data)


@given(st.binary())
def test_random_bytes_have_a_short_kind_or_none(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert len(kind_of(data)) <= 40
