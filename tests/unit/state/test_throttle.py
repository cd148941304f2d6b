"""A limit on bytes per second holds over any stretch of time, wastes nothing, and keeps the order of asking."""

from __future__ import annotations

import asyncio
from itertools import accumulate
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.run import CHUNK_BYTES, digest_of
from p2ptrain.state import Blobs, serve
from p2ptrain.state import fetch as fetching
from p2ptrain.state.fetch import Fetch
from p2ptrain.state.throttle import BURST_SECONDS, CHUNK_SECONDS, UNDERWAY_BYTES, Throttle, count_the_rest
from p2ptrain.swarm.wire import Carried
from p2ptrain.swarm.wire import Wire as RealWire
from tests.unit.state.samples import PEERS, bytes_of, run_in_no_time
from tests.unit.state.wire import Wire, request_for

ME, ALICE, *_ = PEERS
ALMOST = 1e-6
RATES = st.floats(1.0, 1e9)
COUNTS = st.lists(st.integers(1, 2**20), min_size=1, max_size=20)


def now() -> float:
    return asyncio.get_running_loop().time()


async def granted(throttle: Throttle, counts: list[int], pauses: list[float] | None = None) -> list[float]:
    """When leave was given for each of these, asked for one after another."""
    times = []
    for count, pause in zip(counts, pauses or [0.0] * len(counts), strict=True):
        await asyncio.sleep(pause)
        await throttle.take(count)
        times.append(now())
    return times


@given(counts=COUNTS, rate=RATES)
def test_who_keeps_asking_moves_bytes_at_the_rate_and_a_burst_ahead_of_it(counts: list[int], rate: float) -> None:
    times = run_in_no_time(granted(Throttle(rate), counts))
    for moved, time in zip(accumulate(counts), times, strict=True):
        assert time == pytest.approx(max(0.0, moved / rate - BURST_SECONDS), rel=ALMOST, abs=ALMOST)


@given(rate=RATES, asked=st.lists(st.tuples(st.integers(1, 2**20), st.floats(0.0, 5.0)), min_size=1, max_size=12))
def test_in_no_stretch_of_time_more_is_moved_than_its_length_and_a_burst_allow(
    rate: float, asked: list[tuple[int, float]]
) -> None:
    """Not even after a pause: what was not used then is lost."""
    counts, pauses = [count for count, _ in asked], [pause for _, pause in asked]
    times = run_in_no_time(granted(Throttle(rate), counts, pauses))
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            # What is granted at `start` may be what its own burst is for.
            allowed = (times[last] - start + BURST_SECONDS) * rate + counts[first]
            assert sum(counts[first : last + 1]) <= allowed * (1 + ALMOST) + ALMOST


@given(counts=COUNTS, rate=RATES)
def test_leave_is_given_in_the_order_of_asking(counts: list[int], rate: float) -> None:
    async def scene() -> list[int]:
        throttle, order = Throttle(rate), list[int]()

        async def ask(number: int) -> None:
            await throttle.take(counts[number])
            order.append(number)

        await asyncio.gather(*(ask(number) for number in range(len(counts))))
        return order

    assert run_in_no_time(scene()) == list(range(len(counts)))


def test_without_a_limit_nobody_waits() -> None:
    assert run_in_no_time(granted(Throttle(None), [10**12] * 5)) == [0.0] * 5


@given(counts=COUNTS, rate=RATES, pause=st.floats(0.0, 5.0))
def test_the_backlog_is_how_long_what_was_asked_for_takes(counts: list[int], rate: float, pause: float) -> None:
    async def scene() -> None:
        throttle = Throttle(rate)
        assert throttle.backlog == 0.0
        asked = [asyncio.create_task(throttle.take(count)) for count in counts]
        await asyncio.sleep(0)
        assert throttle.backlog == pytest.approx(sum(counts) / rate)
        await asyncio.gather(*asked)
        assert throttle.backlog <= BURST_SECONDS * (1 + ALMOST)
        before = throttle.backlog
        await asyncio.sleep(pause)
        assert throttle.backlog == pytest.approx(max(0.0, before - pause), abs=ALMOST)

    run_in_no_time(scene())


@given(rate=RATES, most=st.integers(1, 8), chunk=st.integers(1, 2**20))
def test_so_many_streams_share_a_limit_that_each_gets_its_chunks_in_time(rate: float, most: int, chunk: int) -> None:
    count = Throttle(rate).streams(most, chunk)
    assert 1 <= count <= most
    assert count == 1 or count * chunk / rate <= CHUNK_SECONDS * (1 + ALMOST)
    assert count == most or (count + 1) * chunk / rate >= CHUNK_SECONDS * (1 - ALMOST)
    assert Throttle(None).streams(most, chunk) == most


# What moves without asking -----------------------------------------------------------------------------------------


def test_what_nobody_asked_for_delays_what_is_asked_for() -> None:
    async def scene() -> float:
        throttle = Throttle(1000.0)
        throttle.settle(2000)
        await throttle.take(500)
        return now()

    assert run_in_no_time(scene()) == pytest.approx(2.5 - BURST_SECONDS)


def test_what_was_granted_is_not_counted_again_when_it_moves() -> None:
    """However much later than it was granted, within reason."""

    async def scene() -> float:
        throttle = Throttle(1000.0)
        for _ in range(10):
            await throttle.take(500)
            throttle.settle(0)
        throttle.settle(5000)
        assert throttle.backlog <= BURST_SECONDS * (1 + ALMOST)
        throttle.settle(100)
        return throttle.backlog

    assert run_in_no_time(scene()) == pytest.approx(BURST_SECONDS + 0.1)


def test_what_was_granted_and_never_moves_is_no_credit_for_ever() -> None:
    async def scene() -> float:
        throttle = Throttle(1000.0)
        await throttle.take(10 * UNDERWAY_BYTES)
        throttle.settle(0)
        throttle.settle(UNDERWAY_BYTES)
        before = throttle.backlog
        throttle.settle(1000)
        return throttle.backlog - before

    assert run_in_no_time(scene()) == pytest.approx(1.0)


def test_what_is_given_back_may_be_taken_again() -> None:
    async def scene() -> float:
        throttle = Throttle(1000.0)
        await throttle.take(2000)
        throttle.give_back(1500)
        await throttle.take(500)
        return now()

    assert run_in_no_time(scene()) == pytest.approx(2.0), "not the time that was spent waiting"


class Gossip:
    """A wire on which bulk comes when it was granted, and other things all the time."""

    def __init__(self, rate: float) -> None:
        self.rate, self.bulk, self.began = rate, 0, now()

    def carried(self) -> Carried:
        return Carried(self.bulk + int(self.rate * (now() - self.began)), 0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_with_everything_counted_a_limit_holds_for_the_sum(share: float) -> None:
    rate, seconds = 100_000.0, 60.0

    async def scene() -> float:
        wire, up = Gossip(share * rate), Throttle(rate)
        counting = asyncio.create_task(count_the_rest(cast(RealWire, wire), up, Throttle(None)))
        while now() < seconds:
            await up.take(30_000)
            wire.bulk += 30_000
        counting.cancel()
        return wire.carried().up / now()

    assert 0.95 * rate <= run_in_no_time(scene()) <= 1.05 * rate


def test_if_gossip_alone_is_too_much_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        wire, up = Gossip(3000.0), Throttle(1000.0)
        counting = asyncio.create_task(count_the_rest(cast(RealWire, wire), up, Throttle(None)))
        await asyncio.sleep(60)
        counting.cancel()

    run_in_no_time(scene())
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "gossip and calls alone take more than --max-up allows"
    ]


# Where it is used --------------------------------------------------------------------------------------------------

BLOB = bytes_of(12 * CHUNK_BYTES)
CHUNKS = list(range(12))
SLOW = CHUNK_BYTES / (2 * fetching.STALL_SECONDS)
"""A chunk takes longer than a source may be silent."""


@pytest.fixture(autouse=True)
def calls_of_four_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "CHUNKS_PER_CALL", 4)


@pytest.mark.parametrize("rate", [SLOW, CHUNK_BYTES / 2, 10.0 * CHUNK_BYTES])
def test_a_source_that_waits_for_this_peers_own_limit_has_not_fallen_silent(rate: float) -> None:
    """Nothing is asked of another one a second time, however slow the limit, and nobody's patience ends."""

    async def scene() -> float:
        wire, sources = Wire(), PEERS[1:5]
        for peer in sources:
            await wire.add(peer, BLOB)
        fetch = Fetch(wire.port(ME), digest_of(BLOB), throttle=Throttle(rate))
        assert await fetch.run(lambda: sources, patience=fetching.STALL_SECONDS) == BLOB
        assert sorted(chunk for peer in sources for chunk in wire.chunks_of(peer)) == CHUNKS
        return now()

    assert run_in_no_time(scene()) == pytest.approx(max(0.0, len(BLOB) / rate - BURST_SECONDS), rel=0.02)


def test_what_is_handed_out_to_all_together_keeps_the_limit() -> None:
    async def scene() -> list[float]:
        wire, blobs, times = Wire(), Blobs(), list[float]()
        blobs.hold(BLOB, "test")
        await serve(wire.port(ALICE), blobs, Throttle(CHUNK_BYTES))

        async def ask(first: int) -> None:
            async for frame in wire.handlers[ALICE](ME, request_for(digest_of(BLOB), first, 3)):
                assert len(frame) == CHUNK_BYTES
                times.append(now())

        await asyncio.gather(ask(0), ask(3), ask(6))
        return times

    assert run_in_no_time(scene()) == pytest.approx([second - BURST_SECONDS for second in range(1, 10)])


def test_who_has_much_to_hand_out_takes_no_further_calls_until_that_is_done() -> None:
    """Or those who ask would wait for longer than they do."""

    async def scene() -> None:
        wire, blobs = Wire(), Blobs()
        blobs.hold(BLOB, "test")
        await serve(wire.port(ALICE), blobs, Throttle(CHUNK_BYTES))

        async def ask() -> int:
            return len([frame async for frame in wire.handlers[ALICE](ME, request_for(digest_of(BLOB), 0, 1))])

        began = [asyncio.create_task(ask()) for _ in range(8)]
        answers = await asyncio.gather(*began, return_exceptions=True)
        served = sum(answer == 1 for answer in answers)
        assert served == int(fetching.BUSY_SECONDS) + 1
        assert [str(answer) for answer in answers[served:]] == ["busy"] * (8 - served)
        assert now() == pytest.approx(served - BURST_SECONDS)
        assert await ask() == 1

    run_in_no_time(scene())


def test_a_source_that_is_busy_is_asked_again_later() -> None:
    async def scene() -> float:
        wire, blobs = Wire(), Blobs()
        blobs.hold(BLOB, "test")
        throttle = Throttle(CHUNK_BYTES)
        await serve(wire.port(ALICE), blobs, throttle)
        others = asyncio.create_task(throttle.take(30 * CHUNK_BYTES))
        await asyncio.sleep(0)
        assert await Fetch(wire.port(ME), digest_of(BLOB)).run(lambda: [ALICE], patience=40.0) == BLOB
        await others
        return now()

    assert 41.0 <= run_in_no_time(scene()) <= 43.0
