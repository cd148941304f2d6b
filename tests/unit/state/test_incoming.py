"""A fetch goes on where a restart, a crash or a lost line has ended it, and no damage on the disk gets into a blob."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import StorageError
from p2ptrain.run import CHUNK_BYTES, Digest, Manifest, digest_of
from p2ptrain.run.digest import chunk_count, chunk_digest, chunk_spans
from p2ptrain.state import Blobs, Fetcher, FetchError
from p2ptrain.state import fetch as fetching
from p2ptrain.state.fetch import BlobRequest
from p2ptrain.state.incoming import Incoming, write_at
from p2ptrain.swarm import RpcError
from tests.unit.state.samples import PEERS, bytes_of, empty, flip_a_bit, overwrite, truncate
from tests.unit.state.wire import Fault, Frames, Wire

ME, ALICE, BOB, *_ = PEERS
PER_CALL = 16
BLOB = bytes_of(20 * CHUNK_BYTES + 5000)
CHUNKS = chunk_count(len(BLOB))
DIGEST, MANIFEST = digest_of(BLOB), Manifest.of(BLOB)
Result = TypeVar("Result")


@pytest.fixture(autouse=True)
def short_pauses_and_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(fetching, "CHUNKS_PER_CALL", PER_CALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "incoming"


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(work, 10))


def dies_after(chunks: int) -> Fault:
    """A source that hands out so many chunks in all, and is not heard of again."""
    left = chunks

    async def fault(request: BlobRequest, frames: Frames) -> Frames:
        nonlocal left
        is_manifest = request.manifest
        async for frame in frames:
            if not is_manifest:
                if not left:
                    raise RpcError(ALICE, "blob", "broken off")
                left -= 1
            is_manifest = False
            yield frame

    return fault


class Source:
    """Alice, who serves the blob; what was asked of her since she was last looked at, and what she sent."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.wire, self._fault = Wire(), fault

    async def fetch(self, folder: Path, patience: float = 5.0) -> None:
        """Fetch from her as a peer does that has just started: with nothing in memory."""
        self.blobs = await self.wire.add(ALICE, BLOB, fault=self._fault)
        fetcher, incoming = Fetcher(self.wire.port(ME), Blobs()), Incoming(folder)
        assert await fetcher.fetch(DIGEST, lambda: [ALICE], "test", patience=patience, incoming=incoming) == BLOB

    @property
    def asked(self) -> list[int]:
        return self.wire.chunks_of(ALICE)


def broken_off(folder: Path, chunks: int) -> None:
    """Leave behind what a fetch has got when its only source dies after so many chunks."""

    with pytest.raises(FetchError):
        run(Source(dies_after(chunks)).fetch(folder, patience=0.03))


def fetched_again(folder: Path) -> tuple[list[int], int]:
    """The chunks that a new start asks for, and the bytes that it is sent; the blob is right in the end."""
    source = Source()
    run(source.fetch(folder))
    return sorted(source.asked), source.blobs.sent["test"]


def part(folder: Path) -> Path:
    return folder / f"{DIGEST.hex()}.part"


def manifest(folder: Path) -> Path:
    return folder / f"{DIGEST.hex()}.manifest"


# Going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [0, 1, 2, PER_CALL - 1, PER_CALL, PER_CALL + 1, CHUNKS - 1])
def test_a_new_start_asks_only_for_what_is_missing(folder: Path, chunks: int) -> None:
    broken_off(folder, chunks)
    asked, sent = fetched_again(folder)
    assert asked == list(range(chunks, CHUNKS))
    missing = sum(stop - start for start, stop in chunk_spans(len(BLOB)) if start >= chunks * CHUNK_BYTES)
    assert sent == missing + 5 * (CHUNKS - chunks), "not even the manifest comes again"


def test_what_is_whole_on_disk_is_not_asked_for_at_all(folder: Path) -> None:
    fetched_again(folder)
    assert fetched_again(folder) == ([], 0)


def test_each_start_adds_to_what_is_there(folder: Path) -> None:
    for _ in range(4):
        broken_off(folder, 3)
    assert fetched_again(folder)[0] == list(range(12, CHUNKS))


def test_progress_goes_on_where_it_was(folder: Path) -> None:
    broken_off(folder, 7)
    seen: list[int] = []

    async def scene() -> None:
        wire = Wire()
        await wire.add(ALICE, BLOB)
        fetcher = Fetcher(wire.port(ME), Blobs())
        await fetcher.fetch(
            DIGEST, lambda: [ALICE], "test", progress=lambda here, _: seen.append(here), incoming=Incoming(folder)
        )

    run(scene())
    assert seen[0] == 8 * CHUNK_BYTES
    assert len(seen) == CHUNKS - 7


def test_a_fetch_without_a_folder_leaves_nothing_on_disk(folder: Path) -> None:
    async def scene() -> None:
        wire = Wire()
        await wire.add(ALICE, BLOB)
        await Fetcher(wire.port(ME), Blobs()).fetch(DIGEST, lambda: [ALICE], "test")

    run(scene())
    assert not folder.exists()


# Damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 3 * CHUNK_BYTES, 6 * CHUNK_BYTES - 1])
def test_a_chunk_that_has_changed_on_disk_is_fetched_again(folder: Path, at: int) -> None:
    broken_off(folder, 9)
    data = bytearray(part(folder).read_bytes())
    data[at] ^= 1
    part(folder).write_bytes(data)
    assert fetched_again(folder)[0] == [at // CHUNK_BYTES, *range(9, CHUNKS)]


@pytest.mark.parametrize(
    ("length", "here"),
    [(5 * CHUNK_BYTES, 5), (5 * CHUNK_BYTES + 77, 5), (5 * CHUNK_BYTES - 1, 4), (0, 0), (10**7, 9)],
)
def test_what_a_crash_has_torn_or_a_disk_has_padded_is_looked_at_chunk_by_chunk(
    folder: Path, length: int, here: int
) -> None:
    broken_off(folder, 9)
    os.truncate(part(folder), length)
    assert fetched_again(folder)[0] == list(range(here, CHUNKS))


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, empty, overwrite, Path.unlink])
def test_without_a_whole_manifest_a_fetch_starts_anew(folder: Path, harm: Callable[[Path], None]) -> None:
    broken_off(folder, 9)
    harm(manifest(folder))
    asked, sent = fetched_again(folder)
    assert set(asked) == set(range(CHUNKS))
    assert sent == len(BLOB) + len(MANIFEST.to_bytes()) + 5 * (CHUNKS + 1)
    assert manifest(folder).read_bytes() == MANIFEST.to_bytes()
    assert fetched_again(folder) == ([], 0)


def test_another_blobs_files_under_this_name_are_not_believed(folder: Path) -> None:
    other = bytes_of(len(BLOB), seed=1)
    with Incoming(folder).open(DIGEST, Manifest.of(other)) as file:
        write_at(file, 0, other)
    assert Incoming(folder).resume(DIGEST) is None
    assert set(fetched_again(folder)[0]) == set(range(CHUNKS))


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 3 * CHUNK_BYTES + 9),
    written=st.sets(st.integers(0, 3)),
    noise=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=3),
    length=st.none() | st.integers(0, 4 * CHUNK_BYTES),
)
def test_only_right_chunks_count_as_here(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    written: set[int],
    noise: Iterable[tuple[float, int]],
    length: int | None,
) -> None:
    data = bytes_of(size)
    whole, incoming = Manifest.of(data), Incoming(folder := tmp_path_factory.mktemp("run") / "incoming")
    with incoming.open(whole.digest, whole) as file:
        for index, (start, stop) in enumerate(chunk_spans(size)):
            if index in written:
                write_at(file, start, memoryview(data)[start:stop])
    path = folder / f"{whole.digest.hex()}.part"
    on_disk = bytearray(path.read_bytes())
    for place, flip in noise:
        if on_disk:
            on_disk[int(place * len(on_disk))] ^= flip
    path.write_bytes(on_disk)
    if length is not None:
        os.truncate(path, length)
    found = incoming.resume(whole.digest)
    assert found is not None
    manifest_found, arrived, here = found
    assert (manifest_found, len(arrived)) == (whole, size)
    spans = list(chunk_spans(size))
    right = {index for index, (start, stop) in enumerate(spans) if arrived[start:stop] == data[start:stop]}
    assert here == right
    assert all(chunk_digest(arrived[slice(*spans[index])]) == whole.chunks[index] for index in here)
    if length is None and not noise:
        assert here >= written & set(range(len(spans)))


# A disk that is full, or can't be written ----------------------------------------------------------------------------


def is_full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refusal_of(folder: Path) -> StorageError:
    with pytest.raises(StorageError) as refusal:
        run(Source().fetch(folder))
    assert refusal.value.next_step
    return refusal.value


def test_a_disk_that_is_full_names_the_folder_and_keeps_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(folder, 9)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", is_full)
        refusal = refusal_of(folder)
    assert refusal.what == f"can't keep what arrives in {folder}"
    assert refusal.why == "No space left on device"
    assert "it goes on where it was" in refusal.next_step
    assert fetched_again(folder)[0] == list(range(9, CHUNKS))


def test_a_disk_that_takes_only_a_little_at_a_time_gets_it_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: whole(file, data[:100_000], at))
    fetched_again(folder)
    assert part(folder).read_bytes() == BLOB


def test_a_full_disk_can_not_even_take_the_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", is_full)
    assert str(folder) in refusal_of(folder).what


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "incoming").touch()
    assert refusal_of(tmp_path / "incoming").what == f"can't keep what arrives in {tmp_path / 'incoming'}"


# Forgetting --------------------------------------------------------------------------------------------------------


def test_a_blob_is_forgotten_alone_or_with_all_others(folder: Path) -> None:
    incoming = Incoming(folder)
    incoming.forget_all()
    incoming.forget(DIGEST)  # neither needs a folder
    digests: list[Digest] = []
    for seed in range(3):
        data = bytes_of(100, seed)
        digests.append(digest_of(data))
        with incoming.open(digests[-1], Manifest.of(data)) as file:
            write_at(file, 0, data)
    incoming.forget(digests[0])
    incoming.forget(digests[0])
    assert [incoming.resume(digest) is not None for digest in digests] == [False, True, True]
    assert len(list(folder.iterdir())) == 4
    (folder / ".half-written.part").touch()
    incoming.forget_all()
    assert [path.name for path in folder.iterdir()] == []
