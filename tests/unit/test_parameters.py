"""What peers can't share of a model is refused before anything is sent, by either method."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import p2ptrain
from p2ptrain import OneByteSPSA, P2PTrainError, StreamingDiLoCo, UsageError
from p2ptrain.parameters import Buffers, check_shareable, give_own_memory, not_finite


def model_with(**parameters: nn.Parameter) -> nn.Module:
    model = nn.Linear(2, 2)
    for name, parameter in parameters.items():
        model.register_parameter(name, parameter)
    return model


def normalised(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 4), layer, nn.Linear(4, 1))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(2))


NO_RUN: Any = None
"""Nothing is founded or joined before the check."""
WRAP: dict[str, Callable[[nn.Module], Any]] = {
    "diloco": lambda model: StreamingDiLoCo(model, torch.optim.SGD([nn.Parameter(torch.ones(1))]), NO_RUN),
    "spsa": lambda model: OneByteSPSA(model, lambda batch: torch.zeros(()), NO_RUN),
}
UNFIT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "complex": (lambda: model_with(extra=nn.Parameter(torch.ones(2, dtype=torch.complex64))), "complex"),
    "frozen complex": (lambda: model_with(extra=nn.Parameter(torch.ones(2) * 1j, requires_grad=False)), "complex"),
    "integers": (lambda: model_with(extra=nn.Parameter(torch.arange(3), requires_grad=False)), "int64"),
    "sparse": (lambda: model_with(extra=nn.Parameter(torch.eye(2).to_sparse())), "sparse"),
    "lazy": (lazy, "no shape yet"),
    "meta": (lambda: nn.Linear(2, 2, device="meta"), "meta device"),
    "nothing": (lambda: nn.Linear(2, 2).requires_grad_(False), "no parameter to train"),
    "batch norm": (lambda: normalised(nn.BatchNorm1d(4)), "running statistics"),
    "instance norm": (lambda: normalised(nn.InstanceNorm1d(4, track_running_stats=True)), "running statistics"),
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.parametrize("method", ["diloco", "spsa"])
def test_a_model_that_peers_can_not_share_is_refused(name: str, method: str) -> None:
    make, told = UNFIT[name]
    with pytest.raises(UsageError) as refused:
        WRAP[method](make())
    assert told in refused.value.brief
    assert refused.value.next_step


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_one_byte_trains_float32_only(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).to(dtype))
    with pytest.raises(UsageError, match=r"'1\.weight' is not float32") as refused:
        WRAP["spsa"](model)
    assert str(dtype).removeprefix("torch.") in refused.value.why


@pytest.mark.parametrize(
    "make",
    [
        lambda: normalised(nn.GroupNorm(2, 4)),
        lambda: normalised(nn.BatchNorm1d(4, track_running_stats=False)),
        lambda: normalised(nn.BatchNorm1d(4)).eval(),
        lambda: nn.Linear(2, 2).to(torch.bfloat16),
    ],
)
def test_other_models_are_not(make: Callable[[], nn.Module]) -> None:
    check_shareable(make())


class Counting(nn.Module):
    """Has a constant, a cache and a moving average."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("constant", torch.ones(2))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, moving: bool = False, anew: bool = False) -> None:
        self.cache += 1
        self.steps += 1
        self.constant.copy_(self.constant.clone())  # as DistributedDataParallel does
        if moving:
            self.mean.mul_(0.9).add_(0.1)
        if anew:
            self.mean = 0.9 * self.mean + 0.1


@pytest.mark.parametrize("how", ["moving", "anew"])
def test_a_buffer_that_training_changes_is_named(how: str) -> None:
    model = nn.Sequential(Counting())
    buffers = Buffers(model)
    for _ in range(2):
        model[0]()
        buffers.check()
    model[0](**{how: True})
    with pytest.raises(UsageError, match=r"training changes the buffer '0\.mean'"):
        buffers.check()


def test_batch_norm_in_evaluation_mode_is_watched() -> None:
    model = normalised(nn.BatchNorm1d(4)).eval()
    buffers = Buffers(model)
    model(torch.rand(8, 2))
    buffers.check()
    model.train()(torch.rand(8, 2))
    with pytest.raises(UsageError, match="running_"):
        buffers.check()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_found_in_parameters_and_buffers(value: float) -> None:
    model = Counting()
    assert not_finite(model) == ""
    model.mean[1] = value
    assert not_finite(model) == "mean"
    model.weight.data[0] = value
    assert not_finite(model) == "weight"


def test_own_memory_changes_no_value_and_keeps_ties() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model[0].weight.data = torch.rand(3, 3).t()
    model[1].weight.data = model[0].weight.data
    before = copy.deepcopy(model.state_dict())
    give_own_memory(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    assert model[2].weight is model[0].weight
    model[0].weight.data.zero_()
    assert model[1].weight.any()


def test_every_error_can_be_imported_from_the_package() -> None:
    from p2ptrain import errors

    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined <= set(p2ptrain.__all__)
    assert all(getattr(p2ptrain, name) is getattr(errors, name) for name in defined)
    assert issubclass(p2ptrain.UsageError, P2PTrainError)
