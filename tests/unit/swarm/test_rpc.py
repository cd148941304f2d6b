"""Lengths are checked before anything is read, and nobody may ask for more than the limit allows."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.swarm.rpc import RateLimit, _read_frame, _read_request
from tests.unit.swarm.people import KEYS

LIMIT = 1000
ALICE, BOB, CAROL = (key.peer_id for key in KEYS[:3])
Result = TypeVar("Result")


async def reader_of(*arrivals: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    for data in arrivals:
        reader.feed_data(data)
    reader.feed_eof()
    return reader


async def within_a_second(work: Coroutine[Any, Any, Result]) -> Result:
    return await asyncio.wait_for(work, 1)


def request_in(*arrivals: bytes) -> bytes:
    async def read() -> bytes:
        return await within_a_second(_read_request(await reader_of(*arrivals), LIMIT))

    return asyncio.run(read())


def frames_in(data: bytes) -> list[tuple[int, bytes]]:
    """All frames up to the end or the first wrong one."""

    async def read() -> list[tuple[int, bytes]]:
        reader, frames = await reader_of(data), []
        while not reader.at_eof():
            frames.append(await within_a_second(_read_frame(reader, LIMIT)))
        return frames

    return asyncio.run(read())


def frame_of(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + len(data).to_bytes(4, "big") + data


# Requests ------------------------------------------------------------------------------------------------------------


@given(data=st.binary(max_size=LIMIT), cut=st.integers(0, LIMIT + 4))
def test_a_request_arrives_in_any_pieces(data: bytes, cut: int) -> None:
    sent = len(data).to_bytes(4, "big") + data
    assert request_in(sent[:cut], sent[cut:], b"what follows is not its own") == data


@pytest.mark.parametrize("length", [LIMIT + 1, 2**16, 2**32 - 1])
def test_an_oversize_request_is_refused_before_it_is_read(length: int) -> None:
    with pytest.raises(MalformedError, match="the request is too long") as refusal:
        request_in(length.to_bytes(4, "big"))
    assert str(length) in refusal.value.why
    assert str(LIMIT) in refusal.value.why


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\5four"])
def test_a_truncated_request_is_noticed(data: bytes) -> None:
    with pytest.raises(asyncio.IncompleteReadError):
        request_in(data)


# Frames --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=LIMIT)), max_size=5))
def test_frames_are_read_one_after_the_other(frames: list[tuple[int, bytes]]) -> None:
    assert frames_in(b"".join(frame_of(*frame) for frame in frames)) == frames


@pytest.mark.parametrize("kind", range(3, 256, 36))
def test_a_frame_of_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(MalformedError, match=f"kind {kind}"):
        frames_in(frame_of(kind, b"data"))


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("length", [LIMIT + 1, 2**32 - 1])
def test_an_oversize_frame_is_refused_before_it_is_read(kind: int, length: int) -> None:
    with pytest.raises(MalformedError, match=f"{length} bytes, at most {LIMIT}"):
        frames_in(bytes([kind]) + length.to_bytes(4, "big"))


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0\0", b"\0\0\0\0\5four"])
def test_a_truncated_frame_is_noticed(data: bytes) -> None:
    with pytest.raises(asyncio.IncompleteReadError):
        frames_in(data)


@given(st.binary(max_size=50))
def test_random_bytes_are_frames_or_refused(data: bytes) -> None:
    try:
        frames = frames_in(data)
    except (MalformedError, asyncio.IncompleteReadError):
        return
    assert b"".join(frame_of(*frame) for frame in frames) == data


# The limit -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Asking:
    """A limit and a clock that the test turns."""

    limit: RateLimit
    now: float = 1000.0

    def allowed(self, times: int, peer: str = ALICE) -> int:
        return sum(self.limit.allows(peer, self.now) for _ in range(times))  # type: ignore[arg-type]


def test_a_burst_is_allowed_and_no_more() -> None:
    assert Asking(RateLimit(rate=10, burst=5)).allowed(20) == 5


def test_time_refills_at_the_rate_up_to_the_burst() -> None:
    asking = Asking(RateLimit(rate=10, burst=5))
    asking.allowed(5)
    asking.now += 0.25
    assert asking.allowed(20) == 2
    asking.now += 3600
    assert asking.allowed(20) == 5


def test_asking_in_vain_costs_nothing() -> None:
    asking = Asking(RateLimit(rate=10, burst=5))
    asking.allowed(1000)
    asking.now += 0.1
    assert asking.allowed(10) == 1


def test_one_peers_calls_leave_the_others_theirs() -> None:
    asking = Asking(RateLimit(rate=1, burst=3))
    assert [asking.allowed(10, peer) for peer in (ALICE, BOB, ALICE)] == [3, 3, 0]


def test_who_was_not_seen_for_longest_is_forgotten_first() -> None:
    asking = Asking(RateLimit(rate=1, burst=1, peers=2))
    assert [asking.allowed(1, peer) for peer in (ALICE, BOB, ALICE)] == [1, 1, 0]
    assert asking.allowed(1, CAROL) == 1  # BOB has been silent for longest
    assert [asking.allowed(1, peer) for peer in (ALICE, BOB)] == [0, 1]


@given(pauses=st.lists(st.floats(0, 5), max_size=60), rate=st.floats(0.1, 20), burst=st.integers(1, 20))
def test_nobody_ever_gets_more_than_the_burst_and_the_rate_allow(pauses: list[float], rate: float, burst: int) -> None:
    asking = Asking(RateLimit(rate, burst))
    allowed = 0
    for pause in pauses:
        asking.now += pause
        allowed += asking.allowed(3)
    assert allowed <= burst + sum(pauses) * rate + 1e-6
