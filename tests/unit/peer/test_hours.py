"""The hours in which a peer may train."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.peer.hours import DAY, Hours

MIDNIGHT = datetime(2026, 11, 21)
MINUTES = st.integers(0, DAY - 1)


def at(clock: str) -> datetime:
    hour, minute = clock.split(":")
    return MIDNIGHT.replace(hour=int(hour), minute=int(minute))


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("22-07", ("22:00", "23:59", "0:00", "6:59"), ("7:00", "12:00", "21:59")),
        ("9-17", ("9:00", "16:59"), ("8:59", "17:00", "0:00")),
        ("22-07,12-13", ("12:00", "12:59", "3:00"), ("11:59", "13:00")),
        ("22:30-7:15, 12:05-12:06", ("22:30", "7:14", "12:05"), ("22:29", "7:15", "12:06")),
        ("0-24", ("0:00", "23:59"), ()),
        ("18-24", ("18:00", "23:59"), ("0:00", "17:59")),
        ("24-6", ("0:00", "5:59"), ("6:00", "23:59")),
    ],
)
def test_a_peer_trains_within_its_hours(text: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    hours = Hours.parse(text)
    assert [clock for clock in inside if not hours.allow(at(clock))] == []
    assert [clock for clock in outside if hours.allow(at(clock))] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no range of hours"),
        ("22", "no range"),
        ("22-", "no range"),
        ("22-7-8", "no range"),
        ("night", "no range"),
        ("22-07,", "no range"),
        ("-1-5", "no range"),
        ("22-25", "25:00 is no time"),
        ("22:60-7", "22:60 is no time"),
        ("24:30-7", "24:30 is no time"),
        ("7-7", "empty"),
        ("22–07", "no range"),
    ],
)
def test_what_is_no_range_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Hours.parse(text)


@given(ranges=st.lists(st.tuples(MINUTES, MINUTES).filter(lambda pair: pair[0] != pair[1]), min_size=1), minute=MINUTES)
def test_the_next_start_is_the_first_minute_that_is_allowed(ranges: list[tuple[int, int]], minute: int) -> None:
    hours, now = Hours(tuple(ranges)), MIDNIGHT + timedelta(minutes=minute, seconds=30)
    if hours.allow(now):
        return
    start = hours.next_start(now)
    assert now < start <= now + timedelta(days=1)
    assert hours.allow(start)
    between = (start - now) // timedelta(minutes=1)
    assert not any(hours.allow(now + timedelta(minutes=passed)) for passed in range(0, between, 7))
