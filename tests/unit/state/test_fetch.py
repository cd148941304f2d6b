"""A blob arrives whole and right, whatever its sources do, as long as one of them is honest; else an error says why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2ptrain.run import CHUNK_BYTES, Digest, Manifest, PeerId, digest_of
from p2ptrain.run.digest import DIGEST_BYTES, Buffer, chunk_count
from p2ptrain.state import Blobs, Fetcher, FetchError
from p2ptrain.state import fetch as module
from p2ptrain.state.blobs import read_file
from p2ptrain.state.fetch import MAX_BLOB_BYTES, BlobRequest, Fetch
from p2ptrain.swarm.rpc import MAX_FRAME_BYTES
from tests.unit.state import wire as faults
from tests.unit.state.samples import PEERS, bytes_of, flip_a_bit
from tests.unit.state.wire import FAULTS, Fault, Frames, Wire

ME, ALICE, BOB, CAROL, DAVE, _ = PEERS
PER_CALL = 16
"""Fewer than a call really asks for: many calls need little data."""
BLOB = bytes_of(2 * PER_CALL * CHUNK_BYTES + 5000)
CHUNKS = chunk_count(len(BLOB))
DIGEST = digest_of(BLOB)
PATIENCE = 0.1
Result = TypeVar("Result")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "STALL_SECONDS", 0.02)
    monkeypatch.setattr(module, "CHUNKS_PER_CALL", PER_CALL)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(work, 10))


async def fetch(
    wire: Wire,
    sources: Iterable[PeerId] | Callable[[], Iterable[PeerId]],
    digest: Digest = DIGEST,
    patience: float = PATIENCE,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> bytes:
    """Fetch a blob from what may or may not have it; afterwards no call is left open."""
    named = sources if callable(sources) else lambda: sources
    try:
        return bytes(await Fetch(wire.port(ME), digest, **options).run(named, patience, progress))
    finally:
        assert not wire.open.total()


# Honest sources ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, PER_CALL * CHUNK_BYTES, len(BLOB)])
def test_a_blob_arrives_whole(size: int) -> None:
    data = bytes_of(size)

    async def scene() -> None:
        wire = Wire()
        await wire.add(ALICE, data)
        assert await fetch(wire, [ALICE], digest_of(data)) == data
        assert set(range(chunk_count(size))) <= set(wire.chunks_of(ALICE))

    run(scene())


def test_several_sources_share_the_work_and_nothing_is_fetched_twice() -> None:
    async def scene() -> None:
        wire, others_asked = Wire(), asyncio.Event()

        async def waits_for_others(request: BlobRequest, frames: Frames) -> Frames:
            if not request.manifest:
                await others_asked.wait()
            async for frame in frames:
                yield frame

        async def is_awaited(_request: BlobRequest, frames: Frames) -> Frames:
            others_asked.set()
            async for frame in frames:
                yield frame

        held = [await wire.add(ALICE, BLOB, fault=waits_for_others), await wire.add(BOB, BLOB, fault=is_awaited)]
        assert await fetch(wire, [ALICE, BOB], patience=5.0) == BLOB
        assert sorted(wire.chunks_of(ALICE) + wire.chunks_of(BOB)) == list(range(CHUNKS))
        framing = 5 * (CHUNKS + 1)
        assert sum(blobs.sent["test"] for blobs in held) == len(BLOB) + len(Manifest.of(BLOB).to_bytes()) + framing

    run(scene())


def test_progress_counts_up_to_the_whole() -> None:
    async def scene() -> list[tuple[int, int]]:
        wire, seen = Wire(), list[tuple[int, int]]()
        await wire.add(ALICE, BLOB)
        await fetch(wire, [ALICE], progress=lambda here, in_all: seen.append((here, in_all)))
        return seen

    seen = run(scene())
    assert len(seen) == CHUNKS
    assert seen == sorted(set(seen))
    assert seen[-1] == (len(BLOB), len(BLOB))


# Sources that go wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_source_that_goes_wrong_is_replaced_by_another(fault: Fault) -> None:
    async def scene() -> None:
        wire = Wire()
        await wire.add(ALICE, BLOB, fault=fault)
        await wire.add(BOB, BLOB)
        assert await fetch(wire, [ALICE, BOB], patience=5.0) == BLOB

    run(scene())


def test_a_liar_is_dropped_at_its_first_bad_chunk_and_the_good_ones_before_it_stay() -> None:
    async def scene() -> None:
        wire = Wire()
        await wire.add(ALICE, BLOB, fault=faults.lies)
        await wire.add(BOB, BLOB)
        assert await fetch(wire, [ALICE, BOB]) == BLOB
        assert sum(peer == ALICE for peer, _ in wire.asked) == 1
        assert wire.chunks_of(BOB) == list(range(2, CHUNKS))

    run(scene())


def test_what_has_arrived_stays_until_somebody_else_is_named() -> None:
    """All sources have failed; the fetch goes on where they stopped."""

    async def scene() -> None:
        wire = Wire()
        await wire.add(ALICE, BLOB, fault=faults.lies)
        await wire.add(BOB, BLOB)

        def sources() -> list[PeerId]:
            return [ALICE, BOB] if wire.asked and not wire.open.total() else [ALICE]

        assert await fetch(wire, sources, patience=5.0) == BLOB
        assert wire.chunks_of(BOB) == list(range(2, CHUNKS))

    run(scene())


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_a_source_that_falls_silent_keeps_nobody_waiting(frames: int) -> None:
    """Before its manifest, after it, or in the middle of the chunks, which another source then hands out as well."""

    async def scene() -> None:
        wire, left = Wire(), frames

        async def stalls(_request: BlobRequest, honest: Frames) -> Frames:
            nonlocal left
            async for frame in honest:
                if not left:
                    await asyncio.Event().wait()
                left -= 1
                yield frame

        await wire.add(ALICE, BLOB, fault=stalls)
        await wire.add(BOB, BLOB)
        assert await fetch(wire, [ALICE, BOB], patience=5.0) == BLOB

    run(scene())


def test_who_was_only_unreachable_is_tried_again() -> None:
    async def scene() -> None:
        wire = Wire()
        await wire.add(ALICE, BLOB)
        handler = wire.handlers.pop(ALICE)

        def sources() -> list[PeerId]:
            if len(wire.asked) >= 4:  # more often than one round of tries
                wire.handlers[ALICE] = handler
            return [ALICE]

        assert await fetch(wire, sources, patience=5.0) == BLOB

    run(scene())


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chosen=st.lists(st.sampled_from(FAULTS), max_size=4),
    place=st.integers(0, 4),
    chunks=st.integers(0, 20),
)
def test_one_honest_source_is_enough(chosen: list[Fault], place: int, chunks: int) -> None:
    data = bytes_of(chunks * CHUNK_BYTES + 13)

    async def scene() -> bytes:
        wire, kinds = Wire(), list[Fault | None](chosen)
        kinds.insert(place, None)
        sources = PEERS[1 : 1 + len(kinds)]
        for peer, fault in zip(sources, kinds, strict=True):
            await wire.add(peer, data, fault=fault)
        return await fetch(wire, sources, digest_of(data), patience=5.0)

    assert run(scene()) == data


# Nobody ------------------------------------------------------------------------------------------------------------


def failure_of(work: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises(FetchError) as failure:
        run(work)
    return str(failure.value)


def test_without_sources_the_error_says_that_nobody_offers_it() -> None:
    assert failure_of(fetch(Wire(), [])) == f"nobody offers {DIGEST.hex()[:8]}"


def test_when_all_sources_are_bad_the_error_names_each_and_its_fault() -> None:
    async def scene() -> None:
        wire = Wire()
        await wire.add(ALICE, BLOB, fault=faults.lies)
        await wire.add(BOB, bytes_of(7))
        await wire.add(CAROL, BLOB, fault=faults.sends_another_blob)
        await fetch(wire, [ALICE, BOB, CAROL, DAVE])

    told = failure_of(scene())
    assert told.startswith(f"nobody could hand out {DIGEST.hex()[:8]} (")
    assert f"{ALICE[-6:]}: bad chunk" in told
    assert f"{BOB[-6:]}: blob to {BOB[-6:]}: refused (not here)" in told
    assert f"{CAROL[-6:]}: bad chunk" in told
    assert f"{DAVE[-6:]}: blob to {DAVE[-6:]}: unreachable" in told


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (faults.lies, "bad chunk"),
        (faults.refuses, "refused (not today)"),
        (faults.stops_early, "fewer chunks than were asked for"),
        (faults.sends_nothing, "fewer chunks than were asked for"),
        (faults.sends_a_garbled_manifest, "a blob's manifest does not match its digest"),
        (faults.sends_half_a_manifest, "a blob's manifest has an impossible length"),
        (faults.sends_another_blob, "a blob's manifest does not match its digest"),
        (faults.sends_an_endless_manifest, "malformed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_error_says_what_was_wrong(fault: Fault, told: str) -> None:
    async def scene() -> None:
        wire = Wire()
        await wire.add(ALICE, BLOB, fault=fault)
        await fetch(wire, [ALICE])

    assert told in failure_of(scene())


def test_a_source_that_falls_silent_is_given_up() -> None:
    async def scene() -> None:
        wire = Wire()
        await wire.add(ALICE, BLOB, fault=faults.falls_silent)
        await fetch(wire, [ALICE])

    failure_of(scene())


# Bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "arrives"), [(len(BLOB) - 1, False), (len(BLOB), True)])
def test_a_blob_larger_than_expected_is_not_fetched(limit: int, arrives: bool) -> None:
    async def scene() -> bytes:
        wire = Wire()
        await wire.add(ALICE, BLOB)
        return await fetch(wire, [ALICE], max_bytes=limit)

    if arrives:
        assert run(scene()) == BLOB
    else:
        assert "larger than it may be" in failure_of(scene())


def test_who_allows_less_than_a_blob_has_does_not_stand_in_the_way_of_the_next_caller() -> None:
    async def scene() -> Buffer:
        wire = Wire()
        await wire.add(ALICE, BLOB)
        fetcher = Fetcher(wire.port(ME), Blobs())
        with pytest.raises(FetchError, match="larger than it may be"):
            await fetcher.fetch(DIGEST, lambda: [ALICE], "test", len(BLOB) - 1, PATIENCE)
        return await fetcher.fetch(DIGEST, lambda: [ALICE], "test", len(BLOB), PATIENCE)

    assert run(scene()) == BLOB


def test_a_manifest_that_announces_what_no_machine_has_reserves_no_memory() -> None:
    huge = Manifest(2**60, (Digest(bytes(32)),))

    async def scene() -> None:
        wire = Wire()

        async def answer(_peer: PeerId, _request: BlobRequest) -> AsyncGenerator[Buffer, None]:
            yield huge.to_bytes()

        wire.handlers[ALICE] = answer
        await fetch(wire, [ALICE], huge.digest)

    assert "a blob's manifest does not match its digest" in failure_of(scene())


def test_the_largest_blobs_manifest_fits_into_one_frame() -> None:
    assert 8 + DIGEST_BYTES * chunk_count(MAX_BLOB_BYTES) <= MAX_FRAME_BYTES


# The fetcher -------------------------------------------------------------------------------------------------------


def test_what_was_fetched_is_held_for_those_who_come_later() -> None:
    async def scene() -> None:
        wire, mine = Wire(), Blobs()
        await wire.add(ALICE, BLOB)
        fetcher = Fetcher(wire.port(ME), mine)
        assert await fetcher.fetch(DIGEST, lambda: [ALICE], "test") == BLOB
        calls = len(wire.asked)
        assert await fetcher.fetch(DIGEST, lambda: [], "test") == BLOB
        assert len(wire.asked) == calls
        assert mine.get(DIGEST) is not None

    run(scene())


def test_what_is_damaged_here_is_fetched_from_others(tmp_path: Path) -> None:
    async def scene() -> None:
        wire, mine, path = Wire(), Blobs(), tmp_path / "blob"
        await wire.add(ALICE, BLOB)
        path.write_bytes(BLOB)
        mine.hold_source(Manifest.of(BLOB), partial(read_file, path, 0), "test")
        flip_a_bit(path)
        assert await Fetcher(wire.port(ME), mine).fetch(DIGEST, lambda: [ALICE], "test") == BLOB
        assert mine.read(DIGEST) == BLOB

    run(scene())


def test_what_is_damaged_here_is_not_handed_out(tmp_path: Path) -> None:
    async def scene() -> None:
        wire, path = Wire(), tmp_path / "blob"
        blobs = await wire.add(ALICE)
        path.write_bytes(BLOB)
        blobs.hold_source(Manifest.of(BLOB), partial(read_file, path, 0), "test")
        flip_a_bit(path)
        with pytest.raises(FetchError, match="refused"):
            await Fetcher(wire.port(ME), Blobs()).fetch(DIGEST, lambda: [ALICE], "test", patience=PATIENCE)
        assert DIGEST not in blobs

    run(scene())


def test_what_could_not_be_fetched_is_not_held() -> None:
    async def scene() -> None:
        wire, mine = Wire(), Blobs()
        with pytest.raises(FetchError):
            await Fetcher(wire.port(ME), mine).fetch(DIGEST, lambda: [ALICE], "test", patience=PATIENCE)
        assert DIGEST not in mine

    run(scene())


def test_what_arrived_before_a_fetch_failed_is_not_fetched_again() -> None:
    async def scene() -> None:
        wire = Wire()
        fetcher = Fetcher(wire.port(ME), Blobs())
        await wire.add(ALICE, BLOB, fault=faults.lies)
        with pytest.raises(FetchError):
            await fetcher.fetch(DIGEST, lambda: [ALICE], "test", patience=PATIENCE)
        await wire.add(BOB, BLOB)
        assert await fetcher.fetch(DIGEST, lambda: [ALICE, BOB], "test") == BLOB
        assert wire.chunks_of(BOB) == list(range(2, CHUNKS))

    run(scene())
