"""One byte for a projected gradient g, and the integers that it adds to the weights.

    g      = ±clip · 2^((k − 127) / 4)                       code = ±k, k = 1 … 127; code 0 is exactly zero
    quanta = −sign(g) · round(lr · rate · |g| / 2^exponent)  for a tensor that counts in steps of 2^exponent

Code −128 is not used. Quanta are computed in exact fractions, with 2^(j/4) as an integer over 2^62, and rounded once,
half to even. So every machine gets the same quanta, whatever its floating-point library computes.
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
"""The learning rate rises in this many steps, and falls in as many."""
MANTISSAS = (4611686018427387904, 5484249825272419511, 6521908912666391106, 7755900482342532474)
"""2^(j/4) · 2^62 for j = 0 … 3, rounded down."""
_ONE = 2**62
MOST_QUANTA = 2**28
"""The most that one record may add to a weight. 32 bits wrap at 2^31, far above it."""


def encode(gradient: float, clip: float) -> int:
    """The code whose g is nearest to a projected gradient, by ratio. A gradient beyond ±clip counts as ±clip. One that
    is not finite, or too small for any code, gets code 0."""
    if not math.isfinite(gradient) or gradient == 0.0:
        return 0
    ratio = min(abs(gradient) / clip, 1.0)
    level = LARGEST + round(STEPS_PER_OCTAVE * math.log2(ratio)) if ratio else 0
    return int(math.copysign(level, gradient)) if level > 0 else 0


def magnitude(code: int) -> Fraction:
    """|g| / clip of a code."""
    if code == 0:
        return Fraction(0)
    octaves, step = divmod(abs(code) - LARGEST, STEPS_PER_OCTAVE)
    return Fraction(MANTISSAS[step], _ONE) * Fraction(2) ** octaves


def rate_step(method: SPSAMethod, clock: int) -> int:
    """The step of the learning rate at a clock: 1 … 64 while it rises, 64 while it stays, 64 … 128 while it falls.

    A clock is the number of records that an author claims to have applied. Every claim leads to one of these steps.
    """
    if clock < method.warmup_records:
        return 1 + RATE_STEPS * clock // method.warmup_records
    if method.decay_records is None:
        return RATE_STEPS
    gone = (clock - method.warmup_records) * RATE_STEPS // (method.decay_records - method.warmup_records)
    return RATE_STEPS + min(gone, RATE_STEPS)


def rate(method: SPSAMethod, step: int) -> Fraction:
    """The learning rate of a step, as a fraction of `lr` in the spec."""
    if step <= RATE_STEPS:
        return Fraction(step, RATE_STEPS)
    return 1 - (1 - Fraction(method.lr_floor)) * Fraction(step - RATE_STEPS, RATE_STEPS)


def quanta(method: SPSAMethod, code: int, step: int, exponent: int) -> int:
    """What a record adds to a weight whose sign is +1, in steps of 2^exponent."""
    size = Fraction(method.lr) * rate(method, step) * Fraction(method.clip) * magnitude(code)
    moved = round(size / Fraction(2) ** exponent)  # half to even
    return -moved if code > 0 else moved


class QuantaTable:
    """`quanta` for all exponents of a model at once. Each pair of code and step is computed once."""

    def __init__(self, method: SPSAMethod, exponents: Sequence[int]) -> None:
        self._method, self._exponents = method, exponents
        self._rows: dict[tuple[int, int], NDArray[np.int32]] = {}

    def row(self, code: int, step: int) -> NDArray[np.int32]:
        """The quanta of a record, int32, (exponents)."""
        row = self._rows.get((code, step))
        if row is None:
            found = [quanta(self._method, code, step, exponent) for exponent in self._exponents]
            row = self._rows[code, step] = np.array(found, dtype=np.int32)
        return row
