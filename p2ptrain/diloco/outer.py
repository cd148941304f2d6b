"""The outer step: from a state, a commit and its payloads to the next state, the same bits on every machine.

    x_i    = decode(payload_i)                                  pseudo-gradient of contributor i
    s_i    = min(steps_i, 4 · median_j steps_j)
    ‖x_i‖² = Σ_b Σ_{k ∈ b} x_ik²                                float64: 256 elements of a block b in order, then fsum
    c_i    = min(1, 3 · median_j(‖x_j‖ / s_j) · s_i / ‖x_i‖)    norm bound, with three or more contributors
    w_i    = min(tokens_i, cap) / Σ_j min(tokens_j, cap)
    Δ̄      = Σ_i (w_i · c_i) · x_i                              in the order of peer ids
    m      ← μ·m + Δ̄
    θ      ← θ − η·(Δ̄ + μ·m)                                    Nesterov, as torch.optim.SGD(nesterov=True)

Every other multiplication and addition rounds once, to float32, in this order. That is why this is compiled without
fast mathematics, and not torch, whose fused kernels differ between versions and devices. A step goes through the
fragment piece by piece, so it needs no memory but the new θ and m, however many contributions there are. A contribution
whose payload is malformed or not finite counts as absent, on every peer alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from p2ptrain.diloco import kernels
from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.codecs import CODECS, PIECE, Payload, pieces
from p2ptrain.diloco.schedule import fragment_of
from p2ptrain.diloco.state import Fragment, GlobalState, HashedVector
from p2ptrain.errors import LedgerError, MalformedError
from p2ptrain.run import Digest, Manifest, RunSpec, digest_of
from p2ptrain.run.digest import chunk_digest

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
    size = len(fragment.theta.values)
    good: list[tuple[Contribution, Payload]] = []
    refused = []
    for part in commit.contributions:
        try:
            good.append((part, CODECS[spec.diloco.codec].open(payloads[part.payload], size)))
        except MalformedError:
            refused.append(part)
    if not good:
        return Applied(state.after(commit.digest, index, fragment, 0), tuple(refused))
    tokens = [min(part.tokens, spec.limits.contribution_tokens) for part, _ in good]
    usable = [payload for _, payload in good]
    bounds = norm_bounds(usable, [part.steps for part, _ in good], spec.limits.norm_bound)
    total = sum(tokens)
    factors = [part / total * bound for part, bound in zip(tokens, bounds, strict=True)]
    updated = outer_step(fragment, usable, factors, spec.diloco.outer_lr, spec.diloco.outer_momentum)
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


def outer_step(
    fragment: Fragment, payloads: Sequence[Payload], factors: Sequence[float], lr: float, momentum: float
) -> Fragment:
    """One Nesterov step with Δ̄ = Σ factor · contribution, in the given order."""
    eta, mu, size = np.float32(lr), np.float32(momentum), len(fragment.theta.values)
    theta, m = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
    chunks: tuple[list[Digest], list[Digest]] = [], []
    room = np.empty((2, min(size, PIECE)), dtype=np.float32)
    for span in pieces(size):
        values, delta = room[:, : span.stop - span.start]
        for index, (payload, factor) in enumerate(zip(payloads, factors, strict=True)):
            payload.read(span.start, values)
            (kernels.add if index else kernels.scale)(values, np.float32(factor), delta)
        before = fragment.theta.values[span], fragment.momentum.values[span]
        kernels.step(*before, delta, eta, mu, theta[span], m[span])
        for vector, digests in zip((theta, m), chunks, strict=True):  # a piece is a chunk, and is in the cache now
            digests.append(chunk_digest(vector[span].data.cast("B")))
    manifests = [Manifest(4 * size, tuple(digests)) for digests in chunks]
    return Fragment(HashedVector(theta, manifests[0]), HashedVector(m, manifests[1]))


def norm_bounds(payloads: Sequence[Payload], steps: Sequence[int], bound: float) -> list[float]:
    """The factors c_i ≤ 1 that bring each norm per inner step down to `bound` times the median.

    Authors only claim their steps, so a claim above four times the median counts as four times the median.
    """
    if len(payloads) < 3:
        return [1.0] * len(payloads)
    most = _STEPS_BOUND * median(steps)
    rates = [norm(payload) / max(1.0, min(count, most)) for payload, count in zip(payloads, steps, strict=True)]
    limit = bound * median(rates)
    return [limit / rate if rate > limit else 1.0 for rate in rates]


def norm(payload: Payload) -> float:
    """The Euclidean norm of a contribution, with the same bits on every machine: numpy's own sum adds in an order that
    depends on the processor. A square is exact in float64, and `math.fsum` rounds the sum of the blocks once."""
    return math.sqrt(math.fsum(payload.squares()))


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
    fp32 = CODECS["fp32"]
    small, large, exact = (
        fp32.open(vector.tobytes(), len(vector))
        for vector in (numbers * np.float32(0.1), numbers * np.float32(1.1), ramp)
    )
    result = outer_step(fragment, [small, large], [0.7, 0.3 * norm(exact) / 1e4], 0.7, 0.9)
    return digest_of(bytes(result.theta.raw) + bytes(result.momentum.raw)).hex()
