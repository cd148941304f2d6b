"""Positions, packed and approached."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.spsa.position import packed, total, towards, unpacked
from tests.unit.diloco.samples import PEERS
from tests.unit.spsa.samples import log_of

logs = st.builds(log_of, st.sampled_from(PEERS), st.integers(0, 3))
positions = st.dictionaries(logs, st.integers(1, 1000), max_size=8)


@given(position=positions)
def test_a_position_comes_back_in_one_form(position: dict) -> None:  # type: ignore[type-arg]
    assert unpacked(packed(position)) == position
    assert packed({**dict(reversed(position.items())), log_of(PEERS[0], 99): 0}) == packed(position)


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_are_exactly_a_position(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert packed(unpacked(data)) == data


def test_another_order_or_a_log_twice_is_refused() -> None:
    one, other = packed({log_of(PEERS[0]): 1}), packed({log_of(PEERS[1]): 2})
    first, second = sorted((one, other))
    unpacked(first + second)
    for bad in (second + first, first + first, first[:-1], packed({})[:0] + one[:-8] + bytes(8)):
        with pytest.raises(MalformedError):
            unpacked(bad)


@given(applied=positions, target=positions, most=st.integers(1, 2000))
def test_a_step_takes_back_at_once_and_adds_no_more_than_it_may(applied: dict, target: dict, most: int) -> None:  # type: ignore[type-arg]
    reached = towards(applied, target, most)
    added = 0
    for log in {*applied, *target}:
        low, high = min(applied.get(log, 0), target.get(log, 0)), target.get(log, 0)
        assert low <= reached.get(log, 0) <= high
        added += reached.get(log, 0) - low
    missing = total(target) - sum(min(applied.get(log, 0), count) for log, count in target.items())
    assert added == min(most, missing)


def test_who_says_very_much_waits_and_nobody_else_does() -> None:
    target = {log_of(PEERS[0], session): 5000 for session in range(4)} | {log_of(PEERS[1]): 10, log_of(PEERS[2]): 30}
    reached = towards({}, target, 100)
    assert reached[log_of(PEERS[1])] == 10
    assert reached[log_of(PEERS[2])] == 30
    assert sum(count for log, count in reached.items() if log.author == PEERS[0]) == 60
