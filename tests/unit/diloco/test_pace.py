"""How patience is learnt from delays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.diloco.pace import FIRST_GRACE, GRACE_CAP, MAX_ATTEMPT, MIN_ATTEMPT, MIN_GRACE, WINDOW, Pace

DELAYS = st.lists(st.floats(0, 1e5), max_size=100)


def pace(lags: list[float], latencies: list[float] = [], periods: list[float] = []) -> Pace:  # noqa: B006
    result = Pace()
    for lag in lags:
        result.contribution_arrived(lag)
    for latency in latencies:
        result.commit_arrived(latency)
    for period in periods:
        result.round_took(period)
    return result


def test_before_anything_was_seen_the_first_guesses_hold() -> None:
    assert (Pace().grace(), Pace().attempt_timeout()) == (FIRST_GRACE, MIN_ATTEMPT)


def test_grace_is_the_median_and_four_deviations() -> None:
    assert pace([1.0, 1.2, 0.9, 1.1, 1.0]).grace() == pytest.approx(1.0 + 4 * 0.1)


def test_one_straggler_does_not_stretch_the_grace() -> None:
    assert pace([0.5] * 9 + [500.0]).grace() == 0.5


def test_grace_has_a_floor_and_a_cap() -> None:
    assert pace([0.001] * 5).grace() == MIN_GRACE
    assert pace([60.0] * 5).grace() == GRACE_CAP


def test_where_rounds_take_long_the_cap_is_half_a_round() -> None:
    assert pace([60.0] * 5, periods=[40.0, 40.0, 400.0]).grace() == 20.0
    assert pace([60.0] * 5, periods=[1.0]).grace() == GRACE_CAP


def test_who_was_missing_when_the_round_ended_lengthens_the_next_grace() -> None:
    impatient = pace([0.4] * 5)
    before = impatient.grace()
    for _ in range(WINDOW):
        impatient.missed(1)
    assert before < impatient.grace() <= GRACE_CAP


def test_nobody_missing_changes_nothing() -> None:
    content = pace([0.4] * 5)
    content.missed(0)
    assert content.grace() == 0.4


def test_only_the_last_arrivals_count() -> None:
    assert pace([4.0] * 100 + [0.5] * WINDOW).grace() == 0.5


def test_a_leader_has_four_times_the_usual_delay() -> None:
    assert pace([], latencies=[1.0, 2.0, 3.0]).attempt_timeout() == MIN_ATTEMPT + 8.0
    assert pace([], latencies=[1e3]).attempt_timeout() == MAX_ATTEMPT


@given(DELAYS, DELAYS, DELAYS, st.integers(0, 50))
def test_patience_is_never_below_its_floor_nor_without_end(
    lags: list[float], latencies: list[float], periods: list[float], missed: int
) -> None:
    any_pace = pace(lags, latencies, periods)
    any_pace.missed(missed)
    assert MIN_GRACE <= any_pace.grace() <= max(GRACE_CAP, max(periods, default=0.0) / 2)
    assert MIN_ATTEMPT <= any_pace.attempt_timeout() <= MAX_ATTEMPT
