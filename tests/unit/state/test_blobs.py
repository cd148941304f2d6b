"""Bytes that are held are handed out chunk by chunk, from memory or from a file, and are still what they were."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.run import CHUNK_BYTES, Manifest, digest_of
from p2ptrain.run.digest import chunk_digest
from p2ptrain.state import Blobs
from p2ptrain.state.blobs import Read, read_file
from tests.unit.state.samples import bytes_of, empty, flip_a_bit, overwrite, truncate

HEADER = b"a header of another length"


def in_file(path: Path, data: bytes) -> Read:
    path.write_bytes(HEADER + data)
    return partial(read_file, path, len(HEADER))


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 77])
def test_chunks_are_those_of_the_manifest(where: str, size: int, tmp_path: Path) -> None:
    data = bytes_of(size)
    manifest = Manifest.of(data)
    blobs = Blobs()
    if where == "file":
        digest = blobs.hold_source(manifest, in_file(tmp_path / "blob", data), "test")
    else:
        digest = blobs.hold(data, "test")
    blob = blobs.get(digest)
    assert blob is not None
    chunks = [blob.chunk(index) for index in range(len(manifest.chunks))]
    assert b"".join(bytes(chunk) for chunk in chunks) == data == blob.read_all() == blobs.read(digest)
    assert tuple(map(chunk_digest, chunks)) == manifest.chunks


@given(data=st.binary(max_size=300), start=st.integers(0, 300), length=st.integers(0, 300))
def test_any_part_of_memory_is_a_slice(data: bytes, start: int, length: int) -> None:
    blobs = Blobs()
    blob = blobs.get(blobs.hold(bytearray(data), "test"))
    assert blob is not None
    assert bytes(blob.read(start, start + length)) == data[start : start + length]


def test_what_is_held_is_named_by_its_digest_until_it_is_released() -> None:
    blobs, data = Blobs(), bytes_of(1000)
    digest = blobs.hold(data, "test")
    assert digest == digest_of(data)
    assert digest in blobs
    blobs.release(digest)
    blobs.release(digest)
    assert digest not in blobs
    assert blobs.get(digest) is None


def test_a_missing_blob_reads_as_none() -> None:
    assert Blobs().read(digest_of(b"nowhere")) is None


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, empty, overwrite, Path.unlink])
def test_a_file_that_has_changed_is_noticed_when_read_and_served_no_more(
    harm: Callable[[Path], None], tmp_path: Path
) -> None:
    blobs, data = Blobs(), bytes_of(CHUNK_BYTES + 1000)
    digest = blobs.hold_source(Manifest.of(data), in_file(tmp_path / "blob", data), "test")
    assert blobs.read(digest) == data
    harm(tmp_path / "blob")
    assert blobs.read(digest) is None
    assert digest not in blobs
