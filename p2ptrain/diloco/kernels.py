"""The loops of the codecs and of the outer step, compiled. `codecs` and `outer` have the equations.

Each function goes once over vectors that fit into a core's cache. Every operation on float32 rounds once, to float32,
so the bits are those of `tests/unit/diloco/reference.py`, which has the same equations on whole vectors.
Integers are cast again and again because numba widens them to 64 bits; at 32 bits, more fit into a vector register.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from p2ptrain.compiled import compiled, vector

BLOCK = 256
_HALF = BLOCK // 2
_F32, _U8, _I8 = map(vector, (np.float32, np.uint8, np.int8))
_F32_OUT, _U16_OUT, _U8_OUT = (vector(dtype, changed=True) for dtype in (np.float32, np.uint16, np.uint8))
_I8_OUT, _F64_OUT = vector(np.int8, changed=True), vector(np.float64, changed=True)
_NUMBER = vector(np.float32).dtype
_I32, _ONE = np.int32, np.float32(1)
_SMALLEST_SCALE = np.float32(2.0**-100)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_SMALLEST_RATIO = np.int32(0x3C000000)
"""The bits of 2^−7. Numbers of one sign are in the order of their bits."""
_SQUARES = np.array([4 ** (c - 1) if c else 0 for c in range(8)], dtype=np.int32)
_SQUARES = (_SQUARES[np.arange(256) & 7] + _SQUARES[np.arange(256) >> 4 & 7]).astype(np.int32)
"""Σ 4^(c−1) over the two codes of a byte; 0 for c = 0."""
_FOUR_THIRDS = np.float32(4 / 3)
_ROUNDER = np.float32(1.5 * 2.0**23)
"""Adding and subtracting it rounds a number below 2^22 to the nearest integer, ties to even."""


@compiled(_F32, _NUMBER, _F32_OUT)
def scale(values: Any, factor: np.float32, total: Any) -> None:
    """total = factor · values"""
    for i in range(len(total)):
        total[i] = values[i] * factor


@compiled(_F32, _NUMBER, _F32_OUT)
def add(values: Any, factor: np.float32, total: Any) -> None:
    """total += factor · values"""
    for i in range(len(total)):
        total[i] = total[i] + np.float32(values[i] * factor)


@compiled(_F32, _F64_OUT)
def square(values: Any, sums: Any) -> None:
    """The sum of the squares of each block of 256 in float64, in the order of its elements."""
    for block in range(len(sums)):
        row = values[block * BLOCK : (block + 1) * BLOCK]
        total = 0.0
        for i in range(len(row)):
            x = np.float64(row[i])
            total += x * x
        sums[block] = total


@compiled(_U8, _F32, vector(np.int64).dtype, _F64_OUT)
def square_e3m0(codes: Any, scales: Any, elements: int, sums: Any) -> None:
    """`square` of e3m0: ±s·2^(c−7) has the square s²·4^(c−1)·2^−12."""
    for block in range(len(sums)):
        total = _I32(0)
        count = min(BLOCK, elements - block * BLOCK)
        for i in range(block * _HALF, block * _HALF + count // 2):
            total += _SQUARES[codes[i]]
        if count % 2:
            total += _SQUARES[codes[block * _HALF + count // 2] & 15]
        scale = np.float64(scales[block])
        sums[block] = np.float64(total) * (scale * scale) * 2.0**-12


@compiled(_F32, _F32, _F32, _NUMBER, _NUMBER, _F32_OUT, _F32_OUT)
def step(theta: Any, m: Any, delta: Any, eta: np.float32, mu: np.float32, new_theta: Any, new_m: Any) -> None:
    """The outer step from (θ, m) with the mean pseudo-gradient Δ̄."""
    for i in range(len(theta)):
        x = np.float32(m[i] * mu) + delta[i]
        new_m[i] = x
        new_theta[i] = theta[i] - np.float32(np.float32(np.float32(x * mu) + delta[i]) * eta)


# Decoding ------------------------------------------------------------------------------------------------------------


@compiled(_U8, _F32, _F32_OUT)
def decode_e3m0(codes: Any, scales: Any, values: Any) -> None:
    """Decode len(values) elements, which begin with a block."""
    bits = values.view(np.int32)
    for block in range(len(scales)):
        start = block * BLOCK
        scale, row, pairs = scales[block], values[start : start + BLOCK], codes[block * _HALF : (block + 1) * _HALF]
        powers = bits[start : start + BLOCK]
        for i in range(len(row) // 2):
            _power(_I32(pairs[i] & 15), powers, 2 * i)
            _power(_I32(pairs[i] >> 4), powers, 2 * i + 1)
        if len(row) % 2:
            _power(_I32(pairs[len(pairs) - 1] & 15), powers, len(row) - 1)
        for i in range(len(row)):
            row[i] = row[i] * scale


@compiled()
def _power(code: np.int32, powers: Any, at: int) -> None:
    """The bits of ±2^(c−7), or of 0 for c = 0."""
    c, sign = _I32(code & _I32(7)), _I32(_I32(code & _I32(8)) << _I32(28))
    powers[at] = _I32(_I32(c + _I32(120)) << _I32(23)) | sign if c else _I32(0)


@compiled(_I8, _F32, _F32_OUT)
def decode_int8(codes: Any, scales: Any, values: Any) -> None:
    """Decode len(values) elements, which begin with a block."""
    for block in range(len(scales)):
        scale = scales[block]
        for i in range(block * BLOCK, min((block + 1) * BLOCK, len(values))):
            values[i] = np.float32(codes[i]) * scale


# Encoding ------------------------------------------------------------------------------------------------------------


@compiled()
def _begin(delta: Any, largest_code: np.float32, row: Any, bits: Any, number: Any) -> np.int32:
    """Copy a block's Δ into `row`, padded with zeros, and compute its scale: the largest magnitude / largest_code,
    rounded to bf16; number[0] becomes the scale. Returns the bits of the largest magnitude, those of NaN above all."""
    for i in range(len(delta)):
        row[i] = delta[i]
    for i in range(len(delta), BLOCK):
        row[i] = np.float32(0)
    largest = _I32(0)
    for i in range(BLOCK):  # as integers, because a maximum of floats is not computed in vector registers
        largest = max(largest, _I32(bits[i] & _MAGNITUDE))
    whole = number.view(np.int32)
    whole[0] = largest
    number[0] = number[0] / largest_code
    odd = _I32(_I32(whole[0] >> _I32(16)) & _I32(1))
    whole[0] = _I32(_I32(_I32(whole[0] + _I32(0x7FFF) + odd) >> _I32(16)) << _I32(16))
    if number[0] < _SMALLEST_SCALE:
        number[0] = np.float32(0)
    return largest


@compiled(_F32_OUT, _U16_OUT, _U8_OUT)
def encode_e3m0(delta: Any, scales: Any, codes: Any) -> np.float32:
    """Encode Δ, and replace it by what the code loses. Returns Δ's largest magnitude; NaN if one of Δ is NaN."""
    row, ratio, number = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(1, np.float32)
    code = np.empty(BLOCK, np.int32)
    bits, ratio_bits, whole = row.view(np.int32), ratio.view(np.int32), number.view(np.int32)
    worst = _I32(0)
    for block in range(len(scales)):
        part = delta[block * BLOCK : (block + 1) * BLOCK]
        worst = max(worst, _begin(part, _ONE, row, bits, number))
        scale = number[0]
        scales[block] = np.uint16(_I32(whole[0] >> _I32(16)))
        divisor = scale if scale > np.float32(0) else np.float32(np.inf)  # then all ratios are 0
        for i in range(BLOCK):
            ratio[i] = abs(np.float32(row[i] / divisor))
        for i in range(BLOCK):
            code[i] = ratio_bits[i]
        # Between 2^e and 2^(e+1) the nearest power changes at 1.5·2^e, so 4/3 of a magnitude has the exponent of its
        # nearest power of two. The smallest one is 2^−6; magnitudes below 2^−7 are nearer to 0.
        for i in range(BLOCK):
            ratio[i] = np.float32(ratio[i] * _FOUR_THIRDS)
        for i in range(BLOCK):
            c = max(min(_I32(_I32(ratio_bits[i] >> _I32(23)) - _I32(120)), _I32(7)), _I32(1))
            c = _I32(0) if code[i] < _SMALLEST_RATIO else c
            ratio_bits[i] = _I32(_I32(c + _I32(120)) << _I32(23)) if c > _I32(0) else _I32(0)
            code[i] = c | _I32(_I32(bits[i] >> _I32(28)) & _I32(8))
        for i in range(len(part)):
            level = np.float32(ratio[i] * scale)
            part[i] = np.float32(row[i] - level) if row[i] >= np.float32(0) else np.float32(row[i] + level)
        pairs = codes[block * _HALF : (block + 1) * _HALF]
        for i in range(len(pairs)):
            pairs[i] = np.uint8(code[2 * i] | _I32(code[2 * i + 1] << _I32(4)))
    whole[0] = worst
    return np.float32(number[0])


@compiled(_F32_OUT, _U16_OUT, _I8_OUT)
def encode_int8(delta: Any, scales: Any, codes: Any) -> np.float32:
    """Encode Δ, and replace it by what the code loses. Returns Δ's largest magnitude; NaN if one of Δ is NaN."""
    row, number = np.empty(BLOCK, np.float32), np.empty(1, np.float32)
    bits, whole = row.view(np.int32), number.view(np.int32)
    worst = _I32(0)
    for block in range(len(scales)):
        part, own = delta[block * BLOCK : (block + 1) * BLOCK], codes[block * BLOCK : (block + 1) * BLOCK]
        worst = max(worst, _begin(part, np.float32(127), row, bits, number))
        scale = number[0]
        scales[block] = np.uint16(_I32(whole[0] >> _I32(16)))
        divisor = scale if scale > np.float32(0) else np.float32(np.inf)
        for i in range(len(part)):
            level = np.float32(np.float32(np.float32(row[i] / divisor) + _ROUNDER) - _ROUNDER)
            level = max(min(level, np.float32(127)), np.float32(-127))
            own[i] = np.int8(level)
            part[i] = np.float32(row[i] - np.float32(level * scale))
    whole[0] = worst
    return np.float32(number[0])
