"""Who is slow holds nobody up for longer than it is given."""

from __future__ import annotations

import asyncio
import time

import pytest

from p2ptrain.run import PeerId
from p2ptrain.swarm.patience import ask_all
from tests.unit.diloco.samples import PEERS

QUICK, SLOW, FAILING = map(PeerId, PEERS[:3])


async def quick() -> str:
    return "here"


async def never() -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def fails() -> str:
    raise OSError("not today")


async def late() -> str:
    await asyncio.sleep(0.05)
    return "late"


def test_after_the_first_success_the_others_have_a_moment() -> None:
    began = time.monotonic()
    answers = asyncio.run(ask_all({SLOW: never(), QUICK: quick(), FAILING: late()}, 60.0, grace=0.5))
    assert (answers[QUICK], answers[FAILING]) == ("here", "late")
    assert isinstance(answers[SLOW], TimeoutError)
    assert time.monotonic() - began < 30


def test_a_failure_is_no_reason_to_hurry() -> None:
    answers = asyncio.run(ask_all({FAILING: fails(), SLOW: late()}, 60.0, grace=0.0))
    assert answers[SLOW] == "late"
    assert str(answers[FAILING]) == "not today"


def test_nobody_is_waited_for_longer_than_that() -> None:
    answers = asyncio.run(ask_all({FAILING: fails(), SLOW: never()}, 0.05))
    assert isinstance(answers[SLOW], TimeoutError)
    assert asyncio.run(ask_all({}, 60.0)) == {}


def test_who_stops_asking_stops_all_questions() -> None:
    cancelled: list[bool] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def ask() -> None:
        asking = asyncio.create_task(ask_all({SLOW: waits()}, 60.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(ask())
    assert cancelled == [True]
