"""The outer step against torch, and to the bit against arithmetic on single numbers."""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.diloco import kernels, outer
from p2ptrain.diloco.codecs import CODECS, PIECE, Vector
from p2ptrain.diloco.outer import Applied, apply_commit, self_test
from p2ptrain.diloco.state import Fragment, GlobalState, HashedVector
from p2ptrain.errors import LedgerError
from p2ptrain.run import RunSpec, digest_of
from tests.unit.diloco import reference
from tests.unit.diloco.reference import encode, payload_of
from tests.unit.diloco.samples import PEERS, commit_on, encoded, limited, offer
from tests.unit.diloco.swarm_in_memory import initial_state, spec_with

SPEC = spec_with(2, codec="fp32")
STATE = initial_state(SPEC)
SIZE = len(STATE.fragments[1].theta.values)  # height 1 updates fragment 1


def rounded(number: float) -> float:
    """The nearest float32. Python's own product or sum of two float32 numbers has bits enough to round once more."""
    result: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return result


def gaussian(elements: int, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal(elements).astype(np.float32)


def of_all_sizes(elements: int, seed: int) -> Vector:
    """Numbers of very different magnitudes, denormal ones included."""
    powers = np.random.default_rng(seed + 100).uniform(-45, 3, elements)
    return (gaussian(elements, seed) * 10.0**powers).astype(np.float32)


def fragment_with(theta: Vector, momentum: Vector) -> Fragment:
    return Fragment(HashedVector(theta), HashedVector(momentum))


def same_bits(vector: Vector, numbers: Sequence[float]) -> bool:
    return vector.tobytes() == struct.pack(f"<{len(numbers)}f", *numbers)


def outer_step(fragment: Fragment, delta: Vector, lr: float, momentum: float) -> Fragment:
    """With one contribution of factor 1."""
    return outer.outer_step(fragment, [payload_of(delta)], [1.0], lr, momentum)


def weighted_sum(vectors: Sequence[Vector], factors: Sequence[float]) -> Vector:
    total = np.empty_like(vectors[0])
    for index, (vector, factor) in enumerate(zip(vectors, factors, strict=True)):
        (kernels.add if index else kernels.scale)(vector, np.float32(factor), total)
    return total


def norm(vector: Vector) -> float:
    return outer.norm(payload_of(vector))


def norm_bounds(vectors: Sequence[Vector], steps: Sequence[int], bound: float) -> list[float]:
    return outer.norm_bounds(list(map(payload_of, vectors)), steps, bound)


# The arithmetic --------------------------------------------------------------------------------------------------


def test_outer_steps_are_torchs_nesterov_sgd() -> None:
    theta = torch.nn.Parameter(torch.from_numpy(gaussian(300)))
    torchs = torch.optim.SGD([theta], lr=0.7, momentum=0.9, nesterov=True)
    ours = Fragment.initial(gaussian(300))
    for seed in range(1, 8):
        theta.grad = torch.from_numpy(gaussian(300, seed))
        torchs.step()
        ours = outer_step(ours, gaussian(300, seed), lr=0.7, momentum=0.9)
        np.testing.assert_allclose(ours.theta.values, theta.detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (0.4, 0.0), (1.0, 0.95)])
def test_every_operation_of_the_outer_step_rounds_once(lr: float, momentum: float) -> None:
    theta, m, delta = (of_all_sizes(600, seed) for seed in range(3))
    eta, mu = rounded(lr), rounded(momentum)
    new_m = [rounded(rounded(mu * a) + b) for a, b in zip(m.tolist(), delta.tolist(), strict=True)]
    steps = [rounded(eta * rounded(d + rounded(mu * a))) for a, d in zip(new_m, delta.tolist(), strict=True)]
    new_theta = [rounded(t - step) for t, step in zip(theta.tolist(), steps, strict=True)]
    result = outer_step(fragment_with(theta, m), delta, lr, momentum)
    assert same_bits(result.momentum.values, new_m)
    assert same_bits(result.theta.values, new_theta)
    assert np.count_nonzero((np.abs(result.momentum.values) < 1e-38) & (result.momentum.values != 0)) > 10


def test_an_outer_step_leaves_the_state_before_it_alone() -> None:
    before = fragment_with(gaussian(50), gaussian(50, 1))
    delta = gaussian(50, 2)
    outer_step(before, delta, 0.7, 0.9)
    assert np.array_equal(before.theta.values, gaussian(50))
    assert np.array_equal(before.momentum.values, gaussian(50, 1))
    assert np.array_equal(delta, gaussian(50, 2))


def test_a_weighted_sum_adds_in_the_given_order_with_one_rounding_each() -> None:
    vectors = [of_all_sizes(500, seed) for seed in range(5)]
    factors = [0.1, 0.35, 0.2, 1 / 3, 1e-3]
    total = [rounded(rounded(factors[0]) * x) for x in vectors[0].tolist()]
    for vector, factor in zip(vectors[1:], factors[1:], strict=True):
        total = [rounded(t + rounded(rounded(factor) * x)) for t, x in zip(total, vector.tolist(), strict=True)]
    assert same_bits(weighted_sum(vectors, factors), total)


# Norms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [1, 2, 3, 255, 65535, 65536, 65537, 140_001])
def test_the_norm_is_the_euclidean_one(elements: int) -> None:
    vector = gaussian(elements)
    assert norm(vector) == pytest.approx(np.linalg.norm(vector.astype(np.float64)), rel=1e-14)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), elements=st.integers(1, 3000), power=st.integers(-44, 30))
def test_the_norm_is_precise_at_any_magnitude(seed: int, elements: int, power: int) -> None:
    vector = (gaussian(elements, seed) * 10.0**power).astype(np.float32)
    exact = math.sqrt(math.fsum(x * x for x in vector.tolist()))
    assert norm(vector) == pytest.approx(exact, rel=1e-14, abs=0)


@pytest.mark.parametrize("elements", [1, 256, 257, PIECE + 300])
@pytest.mark.parametrize("codec", CODECS)
def test_a_step_has_the_bits_of_the_reference(codec: str, elements: int) -> None:
    """Bound, sum and step over several pieces; one contribution is an outlier."""
    payloads = [encode(codec, gaussian(elements, seed) * np.float32(10.0 ** (3 * (seed == 2)))) for seed in range(5)]
    vectors = [reference.decode(codec, data, elements) for data in payloads]
    opened, steps = [CODECS[codec].open(data, elements) for data in payloads], [4, 4, 5, 4, 3]
    bounds = outer.norm_bounds(opened, steps, 3.0)
    assert [outer.norm(payload) for payload in opened] == [reference.norm(vector) for vector in vectors]
    assert bounds == reference.norm_bounds(vectors, steps, 3.0)
    assert bounds[2] < 1
    factors = [bound / 5 for bound in bounds]
    before = fragment_with(of_all_sizes(elements, 7), of_all_sizes(elements, 8))
    found = outer.outer_step(before, opened, factors, 0.7, 0.9)
    expected = reference.outer_step(before, reference.weighted_sum(vectors, factors), 0.7, 0.9)
    for ours, theirs in ((found.theta, expected.theta), (found.momentum, expected.momentum)):
        assert ours.values.tobytes() == theirs.values.tobytes()
        assert ours.digest == digest_of(bytes(theirs.raw))


def test_two_contributors_are_never_bounded() -> None:
    assert norm_bounds([gaussian(9), gaussian(9) * np.float32(1e6)], [4, 4], 3.0) == [1.0, 1.0]


def test_an_outlier_is_brought_down_to_the_bound_and_nobody_else_is_touched() -> None:
    vectors = [gaussian(2000, seed) for seed in range(4)]
    vectors[2] *= np.float32(1000)
    steps = [4, 8, 2, 5]
    bounds = norm_bounds(vectors, steps, 3.0)
    assert [bounds[i] for i in (0, 1, 3)] == [1.0, 1.0, 1.0]
    rates = sorted(norm(vector) / count for vector, count in zip(vectors, steps, strict=True))
    assert norm(vectors[2]) * bounds[2] / steps[2] == pytest.approx(3.0 * (rates[1] + rates[2]) / 2)


def test_the_bound_is_per_inner_step() -> None:
    """Who did ten times the steps may come ten times as far."""
    vectors = [gaussian(500), gaussian(500, 1), gaussian(500, 2) * np.float32(10)]
    assert norm_bounds(vectors, [4, 4, 40], 3.0) == [1.0, 1.0, 1.0]
    assert norm_bounds(vectors, [4, 4, 4], 3.0)[2] < 1.0


def test_steps_that_are_only_claimed_do_not_lift_the_bound() -> None:
    vectors = [gaussian(500), gaussian(500, 1), gaussian(500, 2) * np.float32(1e20)]
    bounds = norm_bounds(vectors, [4, 4, 2**53 - 1], 3.0)
    assert norm(vectors[2]) * bounds[2] < 3.0 * 4 * 2 * norm(vectors[0])


def test_a_lone_contribution_among_zeros_is_bounded_to_zero() -> None:
    zeros = np.zeros(5, dtype=np.float32)
    assert norm_bounds([zeros, zeros, gaussian(5)], [1, 1, 1], 3.0) == [1.0, 1.0, 0.0]


# Commits ---------------------------------------------------------------------------------------------------------


def apply(
    payloads: Sequence[bytes], tokens: Sequence[int], spec: RunSpec = SPEC, state: GlobalState = STATE
) -> Applied:
    """Apply a commit of these payloads to height 1; the i-th comes from the i-th peer id."""
    parts = [offer(peer, 1, data, tokens=count) for peer, data, count in zip(PEERS, payloads, tokens, strict=False)]
    blobs = {digest_of(data): data for data in reversed(payloads)}
    return apply_commit(state, commit_on(state.head, reversed(parts)), blobs, spec)


def test_a_commit_steps_with_the_mean_in_the_order_of_peer_ids_weighted_by_tokens() -> None:
    vectors = [gaussian(SIZE, seed) for seed in range(3)]
    weights = [10 / 60, 20 / 60, 30 / 60]
    mean = weighted_sum(vectors, weights)
    assert not np.array_equal(mean, weighted_sum(vectors[::-1], weights[::-1])), "another order gives other bits"
    applied = apply([encoded(SPEC, vector) for vector in vectors], [10, 20, 30])
    expected = outer_step(STATE.fragments[1], mean, SPEC.method.outer_lr, SPEC.method.outer_momentum)
    assert applied.state.fragments[1].theta.digest == expected.theta.digest
    assert applied.state.fragments[1].momentum.digest == expected.momentum.digest
    assert applied.state.fragments[0] is STATE.fragments[0]
    assert (applied.state.height, applied.state.weight, applied.refused) == (1, 60, ())


def test_no_contribution_weighs_more_than_the_cap() -> None:
    spec = limited(SPEC, contribution_tokens=30)
    payloads = [encoded(SPEC, gaussian(SIZE, seed)) for seed in range(2)]
    capped, honest = apply(payloads, [10, 10**12], spec).state, apply(payloads, [10, 30], spec).state
    assert capped.weight == honest.weight == 40
    assert capped.fragments[1].theta.digest == honest.fragments[1].theta.digest


def test_an_outlier_among_three_is_bounded_before_the_mean() -> None:
    vectors = [gaussian(SIZE, seed) for seed in range(3)]
    vectors[1] *= np.float32(1e4)
    bound = norm_bounds(vectors, [4, 4, 4], 3.0)[1]
    mean = weighted_sum(vectors, [1 / 3, 1 / 3 * bound, 1 / 3])
    expected = outer_step(STATE.fragments[1], mean, SPEC.method.outer_lr, SPEC.method.outer_momentum)
    applied = apply([encoded(SPEC, vector) for vector in vectors], [7, 7, 7])
    assert applied.state.fragments[1].theta.digest == expected.theta.digest


@pytest.mark.parametrize("bad", [b"", bytes(4 * SIZE - 1), np.full(SIZE, np.nan, dtype="<f4").tobytes()])
def test_a_malformed_contribution_counts_as_absent(bad: bytes) -> None:
    good = [encoded(SPEC, gaussian(SIZE, seed)) for seed in range(2)]
    applied, without = apply([good[0], good[1], bad], [5, 6, 100]), apply(good, [5, 6])
    assert [part.author for part in applied.refused] == [PEERS[2]]
    assert applied.state.weight == without.state.weight == 11
    assert applied.state.fragments[1].theta.digest == without.state.fragments[1].theta.digest


@pytest.mark.parametrize("payloads", [[], [b"malformed"]])
def test_a_commit_without_a_usable_contribution_changes_only_the_position(payloads: list[bytes]) -> None:
    state = apply([encoded(SPEC, gaussian(SIZE))], [5]).state  # with some momentum
    parts = [offer(PEERS[0], 2, data) for data in payloads]
    commit = commit_on(state.head, parts)
    after = apply_commit(state, commit, {digest_of(data): data for data in payloads}, SPEC).state
    assert after.fragments == state.fragments
    assert (after.height, after.commit, after.weight) == (2, commit.digest, state.weight)
    assert after.digest != state.digest


def test_a_commit_made_on_another_state_is_refused() -> None:
    other = initial_state(SPEC, elements=SIZE)
    with pytest.raises(LedgerError, match="another state"):
        apply_commit(STATE, commit_on(other.head), {}, SPEC)


@settings(max_examples=100, deadline=None)
@given(payloads=st.lists(st.binary(min_size=5, max_size=5), min_size=1, max_size=5, unique=True))
def test_any_payloads_lead_to_a_finite_state(payloads: list[bytes]) -> None:
    spec = spec_with(2, codec="e3m0")  # 6 elements: a scale and three bytes of codes
    applied = apply(payloads, [10**9] * 5, spec, initial_state(spec))
    assert np.isfinite(applied.state.fragments[1].theta.values).all()
    assert np.isfinite(applied.state.fragments[1].momentum.values).all()
    assert applied.state.weight == (len(payloads) - len(applied.refused)) * spec.limits.contribution_tokens


# The self-test ---------------------------------------------------------------------------------------------------


def test_this_machines_arithmetic_gives_the_known_bits() -> None:
    self_test()


def test_the_self_test_notices_that_denormal_numbers_are_flushed() -> None:
    outcome: list[BaseException | None] = []

    def flush_and_test() -> None:  # the setting is this thread's own
        if not torch.set_flush_denormal(True):
            return
        try:
            self_test()
            outcome.append(None)
        except LedgerError as error:
            outcome.append(error)
        finally:
            torch.set_flush_denormal(False)

    thread = threading.Thread(target=flush_and_test)
    thread.start()
    thread.join()
    if not outcome:
        pytest.skip("this processor can't flush denormal numbers")
    assert isinstance(outcome[0], LedgerError)
    assert "denormal" in outcome[0].why
