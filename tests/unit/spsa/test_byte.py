"""The byte's code, its learning rate and its quanta."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.run import SPSAMethod
from p2ptrain.spsa.byte import (
    LARGEST,
    MANTISSAS,
    QuantaTable,
    encode,
    magnitude,
    quanta,
    rate,
    rate_step,
)
from tests.unit.spsa.samples import decode

codes = st.integers(-LARGEST, LARGEST)
clips = st.floats(1e-3, 1e6)


def method(**fields: Any) -> SPSAMethod:
    return SPSAMethod(name="spsa", **fields)


def test_the_mantissas_are_the_fourth_roots_of_two() -> None:
    for step, mantissa in enumerate(MANTISSAS):
        assert mantissa**4 <= 2 ** (4 * 62 + step) < (mantissa + 1) ** 4


@given(code=codes, clip=clips)
def test_what_a_code_stands_for_is_said_by_that_code(code: int, clip: float) -> None:
    assert encode(decode(code, clip), clip) == code


@given(gradient=st.floats(allow_nan=False, allow_infinity=False), clip=clips)
def test_a_gradient_is_said_within_half_a_step_of_the_code(gradient: float, clip: float) -> None:
    said = decode(encode(gradient, clip), clip)
    if abs(gradient) >= clip:
        assert said == math.copysign(clip, gradient)
    elif said == 0:
        assert abs(gradient) < clip * 2**-31.5
    else:
        assert 2**-0.1251 <= said / gradient <= 2**0.1251


def test_what_is_no_number_is_said_as_zero() -> None:
    assert [encode(value, 8.0) for value in (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-300)] == [0] * 6


def test_four_steps_double_it() -> None:
    assert magnitude(127) == 1
    assert magnitude(-123) == magnitude(123) == Fraction(1, 2)
    assert float(magnitude(126)) == pytest.approx(2**-0.25)
    assert magnitude(0) == 0


@given(code=codes, exponent=st.integers(-40, -10))
def test_quanta_are_the_nearest_whole_number_and_go_against_the_gradient(code: int, exponent: int) -> None:
    chosen = method(lr=1e-5, clip=32.0)
    exact = -1e-5 * decode(code, 32.0) / 2.0**exponent
    assert abs(quanta(chosen, code, 64, exponent) - exact) <= 0.5 + abs(exact) * 1e-12
    assert quanta(chosen, -code, 64, exponent) == -quanta(chosen, code, 64, exponent)


def test_halves_are_rounded_to_even() -> None:
    """With lr · clip = 2^-10, the largest code is 0.5, 1.5 and 2.5 quanta of these sizes."""
    assert quanta(method(lr=2**-10, clip=1.0), -127, 64, -9) == 0
    assert quanta(method(lr=3 * 2**-10, clip=1.0), -127, 64, -9) == 2
    assert quanta(method(lr=5 * 2**-10, clip=1.0), -127, 64, -9) == 2


def test_known_quanta() -> None:
    """They are part of the protocol: another value here would part the peers."""
    chosen = method(lr=3e-6, clip=60.0, warmup_records=1000, decay_records=9000, lr_floor=0.3)
    table = QuantaTable(chosen, [-28, -27])
    records = [(-127, 64), (126, 64), (-125, 1), (99, 100), (1, 128)]
    assert [table.row(code, step).tolist() for code, step in records] == KNOWN


KNOWN = [[48318, 24159], [-40631, -20315], [534, 267], [-229, -114], [0, 0]]


def test_the_rate_is_constant_unless_the_spec_says_otherwise() -> None:
    chosen = method()
    assert {rate(chosen, rate_step(chosen, clock)) for clock in (0, 1, 10**6, 2**53)} == {Fraction(1)}


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    chosen = method(warmup_records=640, decay_records=1280, lr_floor=0.25)
    rates = [rate(chosen, rate_step(chosen, clock)) for clock in (0, 9, 10, 639, 640, 960, 1280, 2**53)]
    assert rates == [Fraction(n, 64) for n in (1, 1, 2, 64, 64, 40, 16, 16)]


@given(clock=st.integers(0, 2**53), warmup=st.integers(0, 1000), decay=st.integers(1001, 10**9))
def test_whatever_clock_is_claimed_the_rate_is_bounded(clock: int, warmup: int, decay: int) -> None:
    chosen = method(warmup_records=warmup, decay_records=decay)
    step = rate_step(chosen, clock)
    assert 1 <= step <= 128
    assert 0 < rate(chosen, step) <= 1
