"""One byte for a projected gradient, and what it does to weights: integers alone, from the byte to the quanta.

    code = ±k, k = 1 … 127:   g = ±clip · 2^((k − 127) / 4)          0 is exactly zero; −128 is none
    quanta = round(lr · rate · |g| / 2^exponent) of a tensor whose master weights count in steps of 2^exponent

The quanta are computed in exact fractions, with 2^(j/4) as an integer over 2^62, and rounded half to even once: every
machine gets the same ones, whatever its floating-point library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from p2ptrain.run import SPSAMethod

LARGEST = 127
STEPS_PER_OCTAVE = 4
RATE_STEPS = 64
"""Steps in which the learning rate rises and falls."""
MANTISSAS = (4611686018427387904, 5484249825272419511, 6521908912666391106, 7755900482342532474)
"""2^(j/4) · 2^62, rounded down."""
_ONE = 2**62
MOST_QUANTA = 2**28
"""Of one record in one parameter: far below where 32 bits wrap."""


def encode(gradient: float, clip: float) -> int:
    """The code nearest to a projected gradient, by ratio. Beyond the clip it is the clip; not finite, or too small to
    say, it is 0."""
    if not math.isfinite(gradient) or gradient == 0.0:
        return 0
    ratio = min(abs(gradient) / clip, 1.0)
    level = LARGEST + round(STEPS_PER_OCTAVE * math.log2(ratio)) if ratio else 0
    return int(math.copysign(level, gradient)) if level > 0 else 0


def decode(code: int, clip: float) -> float:
    """The projected gradient that a code stands for, for people and tests."""
    return float(Fraction(clip) * magnitude(code)) * (1 if code >= 0 else -1)


def magnitude(code: int) -> Fraction:
    """|g| / clip."""
    if code == 0:
        return Fraction(0)
    octaves, step = divmod(abs(code) - LARGEST, STEPS_PER_OCTAVE)
    return Fraction(MANTISSAS[step], _ONE) * Fraction(2) ** octaves


def rate_step(method: SPSAMethod, clock: int) -> int:
    """Which of the learning rate's steps a claimed clock falls in: 1 … 64 while it rises and after that, then up to
    128 while it falls. Whatever an author claims, its rate is one of these."""
    if clock < method.warmup_records:
        return 1 + RATE_STEPS * clock // method.warmup_records
    if method.decay_records is None:
        return RATE_STEPS
    gone = (clock - method.warmup_records) * RATE_STEPS // (method.decay_records - method.warmup_records)
    return RATE_STEPS + min(gone, RATE_STEPS)


def rate(method: SPSAMethod, step: int) -> Fraction:
    """The learning rate of a step as a fraction of the spec's."""
    if step <= RATE_STEPS:
        return Fraction(step, RATE_STEPS)
    return 1 - (1 - Fraction(method.lr_floor)) * Fraction(step - RATE_STEPS, RATE_STEPS)


def quanta(method: SPSAMethod, code: int, step: int, exponent: int) -> int:
    """What a record adds to a parameter whose sign is +1, in steps of 2^exponent: against the gradient."""
    size = Fraction(method.lr) * rate(method, step) * Fraction(method.clip) * magnitude(code)
    moved = round(size / Fraction(2) ** exponent)  # half to even
    return -moved if code > 0 else moved


class QuantaTable:
    """The same for all exponents of a model at once, computed once for each code and step."""

    def __init__(self, method: SPSAMethod, exponents: Sequence[int]) -> None:
        self._method, self._exponents = method, exponents
        self._rows: dict[tuple[int, int], NDArray[np.int32]] = {}

    def row(self, code: int, step: int) -> NDArray[np.int32]:
        """int32, (exponents)."""
        row = self._rows.get((code, step))
        if row is None:
            found = [quanta(self._method, code, step, exponent) for exponent in self._exponents]
            row = self._rows[code, step] = np.array(found, dtype=np.int32)
        return row
