"""When fragments are averaged, and the inner learning rate, against the papers' formulas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.diloco.schedule import fragment_of, global_progress, learning_rate
from p2ptrain.run import DiLoCoMethod


def method(**fields: object) -> DiLoCoMethod:
    given = {"name": "diloco", "inner_steps": 40, "fragments": 4, "warmup_steps": 30, "total_steps": 600, **fields}
    return DiLoCoMethod.model_validate(given)


@given(fragments=st.integers(1, 12), steps_per_round=st.integers(1, 9))
def test_fragment_p_is_averaged_at_the_steps_of_the_papers_formula(fragments: int, steps_per_round: int) -> None:
    inner_steps = fragments * steps_per_round  # H
    averaged = {(k * steps_per_round, fragment_of(k, fragments)) for k in range(1, 5 * fragments + 1)}
    formula = {
        (t, p)
        for t in range(1, 5 * inner_steps + 1)
        for p in range(fragments)
        if (t - p * steps_per_round) % inner_steps == 0
    }
    assert averaged == formula


def test_one_fragment_is_plain_diloco() -> None:
    assert {fragment_of(height, 1) for height in range(20)} == {0}


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 1 / 31), (15, 16 / 31), (30, 1.0), (315, 0.55), (600, 0.1), (10_000, 0.1)]
)
def test_the_cosine_rises_to_the_peak_and_falls_to_the_floor(step: int, rate: float) -> None:
    assert learning_rate(method(lr=0.004, lr_floor=0.1), step) == pytest.approx(0.004 * rate)


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_the_rate_only_rises_during_the_warm_up_and_only_falls_after_it(one: float, other: float) -> None:
    earlier, later = sorted((one, other))
    before, after = learning_rate(method(), earlier), learning_rate(method(), later)
    if later < 30:
        assert before <= after
    if earlier >= 30:
        assert before >= after
    assert min(before, after) > 0
    assert max(before, after) <= method().lr


@given(st.floats(30, 1e6))
def test_a_constant_schedule_stays_at_the_peak(step: float) -> None:
    for constant in (method(schedule="constant"), method(schedule="constant", total_steps=None)):
        assert learning_rate(constant, step) == constant.lr


def test_without_a_warm_up_the_first_step_is_at_the_peak() -> None:
    assert learning_rate(method(warmup_steps=0), 0) == method().lr


def test_progress_counts_rounds_and_at_most_one_round_of_own_steps() -> None:
    assert [global_progress(method(), 3, steps) for steps in (0, 4, 10, 25)] == [30, 34, 40, 40]
