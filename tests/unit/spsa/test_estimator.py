"""What is measured is the projected gradient, and the weights do not notice that they were measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from p2ptrain.run import SPSAMethod
from p2ptrain.spsa.byte import encode
from p2ptrain.spsa.estimator import LEAST_AGREEMENT, Alone, Estimator
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.replica import Replica
from p2ptrain.spsa.signs import seed_key, signs
from p2ptrain.spsa.state import MasterState
from tests.unit.diloco.samples import PEERS
from tests.unit.spsa.samples import RUN, decode, log_of

LOG = log_of(PEERS[1])
TARGET = 0.25


class Quadratic(torch.nn.Module):
    """Mean squared distance from a target, scaled by the batch."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.linspace(-1, 1, size))
        self.b = torch.nn.Parameter(torch.full((3, 40), 0.5))
        self.asked: list[Any] = []

    def loss(self, batch: float) -> torch.Tensor:
        self.asked.append(batch)
        assert not torch.is_grad_enabled()
        return batch * (((self.a - TARGET) ** 2).sum() + ((self.b - TARGET) ** 2).sum())


class Made:
    """A model, its replica and an estimator."""

    def __init__(self, size: int = 5000, **method: Any) -> None:
        fields = {"name": "spsa", "lr": 1e-4, "epsilon": 1e-2, "clip": 256.0, **method}
        self.method = SPSAMethod(**fields)
        self.model = Quadratic(size)
        self.tensors = dict(self.model.named_parameters())
        self.layout = MasterLayout.for_weights(self.tensors)
        state = MasterState(self.layout, {}, self.layout.from_weights(self.tensors).numpy())
        self.replica = Replica(RUN, self.method, state)
        self.estimator = Estimator(self.method, self.replica, self.tensors, self.model.loss)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    def z(self, key: int) -> dict[str, torch.Tensor]:
        """The perturbation by the reference, tensor by tensor."""
        flat = signs(key, 0, self.layout.tiles).flatten().double()
        return {slot.name: slot.of(flat) for slot in self.layout.slots}

    def alone(self) -> Alone:
        return Alone(RUN, LOG, self.method, self.replica, self.estimator)


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.mark.parametrize("key", [0, 17, 2**63 + 5])
def test_a_quadratic_s_projected_gradient_is_what_the_formula_says(made: Made, key: int) -> None:
    """For a quadratic the two-sided difference is exact: g = Σ z · ∂L/∂θ."""
    weights, z = made.weights(), made.z(key)
    expected = sum(float((z[name] * 2 * (weights[name].double() - TARGET)).sum()) for name in z)
    around = sum(float(((weights[name].double() - TARGET) ** 2 + made.method.epsilon**2).sum()) for name in z)
    found = made.estimator.measure(key, [1.0])
    assert found.gradient == pytest.approx(expected, abs=0.1)
    assert found.loss == pytest.approx(around, rel=1e-5)


def test_losses_on_several_batches_are_averaged_on_the_same_perturbation(made: Made) -> None:
    one, other = (made.estimator.measure(17, [scale]) for scale in (1.0, 3.0))
    made.model.asked.clear()
    both = made.estimator.measure(17, [1.0, 3.0])
    assert both.gradient == pytest.approx((one.gradient + other.gradient) / 2, abs=0.1)
    assert both.loss == pytest.approx((one.loss + other.loss) / 2)
    assert made.model.asked == [1.0, 3.0, 1.0, 3.0]


def test_the_working_copy_is_restored_to_the_bit(made: Made) -> None:
    before, digest = made.weights(), made.replica.state().digest
    for key in range(20):
        made.estimator.measure(key, [1.0])
    assert any(not torch.equal(tensor, before[name]) for name, tensor in made.tensors.items())
    made.estimator.restore()
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.tensors.items())
    assert made.replica.state().digest == digest


def test_the_model_s_parameters_are_views_of_one_vector(made: Made) -> None:
    storages = {tensor.untyped_storage().data_ptr() for tensor in made.tensors.values()}
    assert len(storages) == 1
    assert [tensor.shape for tensor in made.tensors.values()] == [(5000,), (3, 40)]
    assert torch.allclose(made.model.a, torch.linspace(-1, 1, 5000), rtol=0, atol=1e-8)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_gives_no_gradient_and_does_not_last(made: Made, bad: float) -> None:
    before = made.weights()
    found = made.estimator.measure(3, [bad])
    assert not math.isfinite(found.gradient)
    assert encode(found.gradient, made.method.clip) == 0
    made.estimator.restore()
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.tensors.items())


# Alone ---------------------------------------------------------------------------------------------------------------


def test_steps_lower_a_quadratic_s_loss() -> None:
    """By about a factor of e in as many steps as there are parameters, with the best learning rate, 1 / 2d."""
    alone = Made(size=380, lr=1 / 1000).alone()
    losses = [alone.step([1.0]).loss for _ in range(500)]
    assert losses[-1] < 0.5 * losses[0]
    assert min(losses) > 0


def test_a_step_is_one_record_of_the_measured_byte(made: Made) -> None:
    before, z = made.weights(), made.z(seed_key(RUN, *LOG, 0))
    found = made.alone().step([1.0])
    made.estimator.restore()
    assert made.replica.position == {LOG: 1}
    said = decode(encode(found.gradient, made.method.clip), made.method.clip)
    assert said == pytest.approx(found.gradient, rel=0.1)
    for name, tensor in made.tensors.items():
        assert torch.allclose(tensor.double(), before[name] - made.method.lr * said * z[name], rtol=0, atol=1e-6)


def test_every_seed_of_a_step_is_measured_at_the_same_weights() -> None:
    made, one_by_one = Made(seeds_per_step=3), Made()
    expected = [one_by_one.estimator.measure(seed_key(RUN, *LOG, index), [1.0]) for index in range(3)]
    alone = made.alone()
    assert alone.step([1.0]) == expected[-1]
    assert made.replica.position == {LOG: 3}
    said = [encode(found.gradient, made.method.clip) % 256 for found in expected]
    [piece] = alone.pieces(LOG, 0, 3)
    assert list(piece.codes) == said
    alone.step([1.0])
    assert made.replica.position == {LOG: 6}
    assert len(made.model.asked) == 2 * 2 * 3


@pytest.mark.parametrize(("epsilon", "halved"), [(3e-2, True), (1e-4, False)])
def test_a_bfloat16_copy_is_used_only_where_its_gradients_agree(epsilon: float, halved: bool) -> None:
    """At weights around 1 bfloat16's spacing is 0.004 to 0.008."""
    made = Made(epsilon=epsilon)
    before = made.weights()

    def loss(batch: float) -> torch.Tensor:
        a, b = made.model.a.float(), made.model.b.float()  # a bfloat16 sum would lose the difference itself
        return batch * (((a - TARGET) ** 2).sum() + ((b - TARGET) ** 2).sum())

    made.estimator = Estimator(made.method, made.replica, made.tensors, loss)
    agreement = made.estimator.halve([1.0])
    assert (agreement >= LEAST_AGREEMENT) is halved
    made.estimator.restore()
    dtype = torch.bfloat16 if halved else torch.float32
    for name, weights in made.weights().items():
        assert weights.dtype == dtype
        assert torch.equal(weights, before[name].to(dtype))


def test_a_loss_that_is_no_number_leaves_float32(made: Made) -> None:
    assert math.isnan(made.estimator.halve([math.nan]))
    assert {weights.dtype for weights in made.weights().values()} == {torch.float32}
