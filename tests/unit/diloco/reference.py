"""The arithmetic of `codecs` and `outer` on whole vectors, in numpy: `multiply` and `add` are separate loops, so every
operation rounds once. The compiled kernels must give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch

from p2ptrain.diloco.codecs import BLOCK, CODECS, Payload, Vector
from p2ptrain.diloco.state import Fragment, HashedVector


def encode(codec: str, vector: Vector) -> bytes:
    return CODECS[codec].encode(torch.from_numpy(vector.copy()), torch.zeros(len(vector)))


def decode(codec: str, data: bytes, elements: int) -> Vector:
    """A payload's numbers by the table at the top of `codecs`."""
    if codec == "fp32":
        return np.frombuffer(data, "<f4")
    if codec == "bf16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    blocks = -(-elements // BLOCK)
    scales = (np.frombuffer(data, "<u2", blocks).astype(np.uint32) << 16).view(np.float32)
    scales = np.repeat(scales, BLOCK)[:elements]
    if codec == "int8":
        return np.frombuffer(data, np.int8, elements, 2 * blocks).astype(np.float32) * scales
    pairs = np.frombuffer(data, np.uint8, -1, 2 * blocks)
    codes = np.stack([pairs & 15, pairs >> 4], axis=1).ravel()[:elements]
    powers = np.array([0.0] + [2.0 ** (c - 7) for c in range(1, 8)], dtype=np.float32)
    return np.where(codes < 8, powers[codes & 7], np.float32(0) - powers[codes & 7]) * scales


def payload_of(vector: Vector) -> Payload:
    return CODECS["fp32"].open(vector.tobytes(), len(vector))


def weighted_sum(vectors: Sequence[Vector], factors: Sequence[float]) -> Vector:
    """Σ factor · vector in the given order, in float32."""
    total = vectors[0] * np.float32(factors[0])
    for vector, factor in zip(vectors[1:], factors[1:], strict=True):
        total = total + vector * np.float32(factor)
    return total


def outer_step(fragment: Fragment, delta: Vector, lr: float, momentum: float) -> Fragment:
    """One Nesterov step with the mean pseudo-gradient."""
    eta, mu = np.float32(lr), np.float32(momentum)
    m = fragment.momentum.values * mu + delta
    return Fragment(HashedVector(fragment.theta.values - (m * mu + delta) * eta), HashedVector(m))


def norm(vector: Vector) -> float:
    blocks = []
    for start in range(0, len(vector), BLOCK):
        total = 0.0
        for x in vector[start : start + BLOCK].tolist():
            total += x * x
        blocks.append(total)
    return math.sqrt(math.fsum(blocks))


def norm_bounds(vectors: Sequence[Vector], steps: Sequence[int], bound: float) -> list[float]:
    if len(vectors) < 3:
        return [1.0] * len(vectors)
    most = 4 * median(steps)
    rates = [norm(vector) / max(1.0, min(count, most)) for vector, count in zip(vectors, steps, strict=True)]
    return [min(1.0, bound * median(rates) / rate) if rate else 1.0 for rate in rates]
