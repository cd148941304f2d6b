"""The outer step: from a state, a commit and its payloads to the next state, the same bits on every machine.

    x_i    = decode(payload_i)                                  pseudo-gradient of contributor i
    s_i    = min(steps_i, 4 · median_j steps_j)
    c_i    = min(1, 3 · median_j(‖x_j‖ / s_j) · s_i / ‖x_i‖)    norm bound, with three or more contributors
    w_i    = min(tokens_i, cap) / Σ_j min(tokens_j, cap)
    Δ̄      = Σ_i (w_i · c_i) · x_i                              in the order of peer ids
    m      ← μ·m + Δ̄
    θ      ← θ − η·(Δ̄ + μ·m)                                    Nesterov, as torch.optim.SGD(nesterov=True)

Every multiplication and every addition rounds once, to float32, in this order. That is why this is numpy, whose
`multiply` and `add` are separate loops, and not torch, whose fused kernels differ between versions and devices.
A contribution whose payload is malformed or not finite counts as absent, on every peer alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.codecs import CODECS, Vector
from p2ptrain.diloco.schedule import fragment_of
from p2ptrain.diloco.state import Fragment, GlobalState, HashedVector
from p2ptrain.errors import LedgerError, MalformedError
from p2ptrain.run import Digest, RunSpec, digest_of

_SUM_BLOCK = 65536
_STEPS_BOUND = 4


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of applying a commit."""

    state: GlobalState
    refused: tuple[Contribution, ...]
    """Listed contributions whose payloads were unusable."""


def apply_commit(state: GlobalState, commit: Commit, payloads: Mapping[Digest, bytes], spec: RunSpec) -> Applied:
    """Compute the state after `commit` from the state after its parent, and from the encoded bytes of every listed
    contribution by digest; pure. Raises LedgerError if the commit was made on another state than this one."""
    if commit.state != state.digest:
        raise LedgerError(
            f"the commit of height {commit.height} was made on another state",
            f"it names {commit.state.hex()[:12]}, here is {state.digest.hex()[:12]}",
        )
    index = fragment_of(commit.height, len(state.fragments))
    fragment = state.fragments[index]
    good, refused = [], []
    for contribution in commit.contributions:
        try:
            good.append((contribution, decode_payload(payloads[contribution.payload], fragment, spec)))
        except MalformedError:
            refused.append(contribution)
    if not good:
        return Applied(state.after(commit.digest, index, fragment, 0), tuple(refused))
    tokens = [min(contribution.tokens, spec.limits.contribution_tokens) for contribution, _ in good]
    bounds = norm_bounds([vector for _, vector in good], [c.steps for c, _ in good], spec.limits.norm_bound)
    total = sum(tokens)
    factors = [part / total * bound for part, bound in zip(tokens, bounds, strict=True)]
    mean = weighted_sum([vector for _, vector in good], factors)
    updated = outer_step(fragment, mean, spec.diloco.outer_lr, spec.diloco.outer_momentum)
    return Applied(state.after(commit.digest, index, updated, total), tuple(refused))


def replay(
    state: GlobalState, commits: Iterable[Commit], payload: Callable[[Contribution], bytes], spec: RunSpec
) -> Iterator[Applied]:
    """Apply commits one after another, oldest first. Joining, catching up, healing and auditing all end here.

    `payload` returns a contribution's bytes, or raises. Raises LedgerError if a commit was made on another state than
    the ones before it lead to.
    """
    for commit in commits:
        payloads = {part.payload: payload(part) for part in commit.contributions}
        applied = apply_commit(state, commit, payloads, spec)
        state = applied.state
        yield applied


def decode_payload(data: bytes, fragment: Fragment, spec: RunSpec) -> Vector:
    """A payload's pseudo-gradient. Raises MalformedError if `data` is none of this fragment."""
    return CODECS[spec.diloco.codec].decode(data, len(fragment.theta.values))


def outer_step(fragment: Fragment, delta: Vector, lr: float, momentum: float) -> Fragment:
    """One Nesterov step with the mean pseudo-gradient `delta` (1-D); all float32, one rounding per operation."""
    eta, mu = np.float32(lr), np.float32(momentum)
    m = np.multiply(fragment.momentum.values, mu)
    m += delta
    step = np.multiply(m, mu)
    step += delta
    step *= eta
    theta = np.subtract(fragment.theta.values, step)
    return Fragment(HashedVector(theta), HashedVector(m))


def weighted_sum(vectors: Sequence[Vector], factors: Sequence[float]) -> Vector:
    """Σ factor · vector in the given order, in float32."""
    total = np.multiply(vectors[0], np.float32(factors[0]))
    term = np.empty_like(total)
    for vector, factor in zip(vectors[1:], factors[1:], strict=True):
        np.multiply(vector, np.float32(factor), out=term)
        total += term
    return total


def norm_bounds(vectors: Sequence[Vector], steps: Sequence[int], bound: float) -> list[float]:
    """The factors c_i ≤ 1 that bring each norm per inner step down to `bound` times the median.

    Authors only claim their steps, so a claim above four times the median counts as four times the median.
    """
    if len(vectors) < 3:
        return [1.0] * len(vectors)
    most = _STEPS_BOUND * median(steps)
    rates = [norm(vector) / max(1.0, min(count, most)) for vector, count in zip(vectors, steps, strict=True)]
    limit = bound * median(rates)
    return [limit / rate if rate > limit else 1.0 for rate in rates]


def norm(vector: Vector) -> float:
    """The Euclidean norm, with the same bits on every machine.

    numpy's own sum adds in an order that depends on the processor. Here a square is exact in float64, blocks are
    summed by adding their halves, and `math.fsum` rounds the sum of the blocks once.
    """
    blocks = []
    for start in range(0, len(vector), _SUM_BLOCK):
        block = np.square(vector[start : start + _SUM_BLOCK], dtype=np.float64)
        while len(block) > 1:
            half = len(block) // 2
            folded = block[:half] + block[half : 2 * half]
            block = np.append(folded, block[-1]) if len(block) % 2 else folded
        blocks.append(float(block[0]))
    return math.sqrt(math.fsum(blocks))


_SELF_TEST_DIGEST = "846c4ba8d411cd3d060536b4b4dbcf50d2c00b2b973dc926efeb81f7d440daca"


def self_test() -> None:
    """Check that arithmetic on this thread gives the known bits, denormal numbers included. Raises LedgerError if the
    bits differ, so that this peer's state would differ from the others'."""
    found = _self_test_digest()
    if found != _SELF_TEST_DIGEST:
        raise LedgerError(
            "this machine's arithmetic differs from the swarm's",
            "the outer step's self-test gave other bits; denormal numbers may be flushed to zero here",
            "report this processor and numpy version; the peer did not join",
        )


def _self_test_digest() -> str:
    ramp = np.arange(-500, 500, dtype=np.float32)
    numbers = np.concatenate([ramp / np.float32(7), ramp * np.float32(1e-41)])
    fragment = Fragment(HashedVector(numbers), HashedVector(numbers * np.float32(0.3)))
    mean = weighted_sum([numbers * np.float32(0.1), numbers * np.float32(1.1)], [0.7, 0.3 * norm(ramp) / 1e4])
    result = outer_step(fragment, mean, 0.7, 0.9)
    return digest_of(bytes(result.theta.raw) + bytes(result.momentum.raw)).hex()
