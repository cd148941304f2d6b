"""Digests name bytes, and a manifest proves every chunk of them."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.run import CHUNK_BYTES, NO_DIGEST, Digest, Manifest, digest_of, short
from p2ptrain.run.digest import DIGEST_BYTES, chunk_count, chunk_digest, chunk_spans

BOUNDARIES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]


def blob_of(size: int) -> bytes:
    """Bytes in which no two chunks are alike."""
    return blake3(size.to_bytes(8, "little")).digest(size)


@pytest.mark.parametrize("size", BOUNDARIES)
def test_a_manifest_survives_the_wire(size: int) -> None:
    manifest = Manifest.of(blob_of(size))
    assert manifest.size == size
    assert len(manifest.chunks) == chunk_count(size)
    assert Manifest.from_bytes(manifest.to_bytes(), manifest.digest) == manifest


@pytest.mark.parametrize("size", BOUNDARIES)
def test_a_digest_is_the_documented_function_of_the_bytes(size: int) -> None:
    data = blob_of(size)
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, size, CHUNK_BYTES)]
    hasher = blake3(size.to_bytes(8, "little"), derive_key_context="p2ptrain 2026 blob")
    for chunk in chunks:
        hasher.update(blake3(chunk).digest())
    assert digest_of(data) == hasher.digest()
    assert Manifest.of(data).chunks == tuple(chunk_digest(chunk) for chunk in chunks)


@given(size=st.integers(0, 2**45))
def test_chunks_cover_a_blob_without_gap_or_overlap(size: int) -> None:
    size %= 2000 * CHUNK_BYTES  # the formula is the same, the list shorter
    spans = list(chunk_spans(size))
    assert len(spans) == chunk_count(size)
    assert [0, *(stop for _, stop in spans)] == [*(start for start, _ in spans), size]
    assert all(stop - start == CHUNK_BYTES for start, stop in spans[:-1])
    assert all(0 < stop - start <= CHUNK_BYTES for start, stop in spans)


@given(size=st.sampled_from([1, 100, CHUNK_BYTES, CHUNK_BYTES + 1]), data=st.data())
def test_a_digest_depends_on_every_byte(size: int, data: st.DataObject) -> None:
    blob = bytearray(blob_of(size))
    before = digest_of(blob)
    at = data.draw(st.integers(0, size - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    assert digest_of(blob) != before


@given(left=st.integers(0, 600), right=st.integers(0, 600))
def test_a_digest_depends_on_the_length(left: int, right: int) -> None:
    assert (digest_of(bytes(left)) == digest_of(bytes(right))) == (left == right)


def test_the_order_of_chunks_matters() -> None:
    first, second = bytes(CHUNK_BYTES), b"\1" * CHUNK_BYTES
    assert digest_of(first + second) != digest_of(second + first)


def test_a_blob_is_not_named_like_its_manifest_or_its_only_chunk() -> None:
    data = b"a record"
    assert digest_of(data) not in (chunk_digest(data), digest_of(Manifest.of(data).to_bytes()), NO_DIGEST)


@given(st.binary(max_size=100))
def test_every_kind_of_buffer_of_the_same_bytes_has_one_digest(data: bytes) -> None:
    padded = memoryview(b"x" + data + b"y")[1:-1]
    assert digest_of(data) == digest_of(bytearray(data)) == digest_of(memoryview(data)) == digest_of(padded)


@given(size=st.sampled_from(BOUNDARIES), data=st.data())
def test_a_manifest_with_any_byte_changed_is_refused(size: int, data: st.DataObject) -> None:
    manifest = Manifest.of(blob_of(size))
    raw = bytearray(manifest.to_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MalformedError, match="does not match its digest"):
        Manifest.from_bytes(bytes(raw), manifest.digest)


def test_the_manifest_of_another_blob_is_refused() -> None:
    with pytest.raises(MalformedError, match="does not match its digest"):
        Manifest.from_bytes(Manifest.of(b"other").to_bytes(), digest_of(b"wanted"))


@pytest.mark.parametrize("length", [0, 7, 9, 8 + DIGEST_BYTES - 1, 8 + DIGEST_BYTES + 1])
def test_a_manifest_of_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(MalformedError, match="impossible length"):
        Manifest.from_bytes(bytes(length), digest_of(b""))


@pytest.mark.parametrize("size", [0, CHUNK_BYTES, 2 * CHUNK_BYTES + 1, 2**64 - 1])
def test_a_manifest_whose_size_needs_another_number_of_chunks_is_refused_even_under_its_own_digest(size: int) -> None:
    liar = Manifest(size, (chunk_digest(b"one"), chunk_digest(b"two")))
    with pytest.raises(MalformedError, match="does not match its digest"):
        Manifest.from_bytes(liar.to_bytes(), liar.digest)


@given(data=st.binary(max_size=200), expected=st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES))
def test_random_bytes_are_never_a_manifest(data: bytes, expected: bytes) -> None:
    with pytest.raises(MalformedError):
        Manifest.from_bytes(data, Digest(expected))


def test_people_see_eight_digits() -> None:
    assert short(bytes.fromhex("0123456789abcdef")) == "01234567"
