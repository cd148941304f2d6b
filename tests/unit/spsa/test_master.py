"""Master weights: where tensors lie, what their integers mean, and which learning rates are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from p2ptrain.errors import LedgerError, SpecError
from p2ptrain.run import SPSAMethod
from p2ptrain.spsa.master import HEADROOM, MasterLayout, check_learning_rate, exponent_for
from p2ptrain.spsa.signs import TILE

shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=20)


def weights(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) * scale


MODEL = {"norm": torch.ones(5), "matrix": weights(70, 70, scale=0.02), "scalar": torch.tensor(3.0)}


def test_each_tensor_begins_a_tile_and_has_an_exponent_of_its_own() -> None:
    layout = MasterLayout.for_weights(MODEL)
    assert [(slot.first, slot.tiles) for slot in layout.slots] == [(0, 1), (1, 2), (3, 1)]
    assert layout.tiles == 4
    columns = [layout.exponents[kind] for kind in layout.kinds()]
    assert columns == [exponent_for(name, MODEL[name]) for name in ("norm", "matrix", "matrix", "scalar")]
    assert layout.steps().tolist() == [2.0**exponent for exponent in layout.exponents]


@given(tensors=st.lists(shapes, min_size=1, max_size=4))
def test_tensors_of_any_shape_come_back(tensors: list[tuple[int, ...]]) -> None:
    model = {f"t{index}": weights(*shape) for index, shape in enumerate(tensors)}
    layout = MasterLayout.for_weights(model)
    master = layout.from_weights(model)
    assert master.numel() == layout.tiles * TILE
    back = layout.to_weights(master)
    for name, tensor in model.items():
        assert back[name].shape == tensor.shape
        assert torch.allclose(back[name], tensor, rtol=0, atol=2.0 ** (exponent_for(name, tensor) - 1))
    assert torch.equal(layout.from_weights(back), master), "what has been rounded once stays"


@given(largest=st.floats(2.0**-20, 2.0**20, width=32))
def test_the_exponent_leaves_room_and_not_more_than_twice_as_much(largest: float) -> None:
    room = 2.0**31 * 2.0 ** exponent_for("w", torch.tensor([largest, -largest / 3]))
    assert HEADROOM * max(largest, 0.25) <= room <= 2 * HEADROOM * max(largest, 0.25)


def test_weights_that_begin_at_zero_have_room_to_grow() -> None:
    assert 2.0**31 * 2.0 ** exponent_for("lora_B", torch.zeros(4)) >= 4


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(SpecError, match="'w' are not finite"):
        exponent_for("w", torch.tensor([1.0, float("nan")]))


def test_a_weight_that_has_left_its_range_is_named() -> None:
    layout = MasterLayout.for_weights(MODEL)
    master = layout.from_weights(MODEL)
    layout.check_range(master.numpy())
    master[TILE + 3] = -(2**31) + 5
    with pytest.raises(LedgerError, match="'matrix' have left the range"):
        layout.check_range(master.numpy())


def test_padding_may_hold_anything() -> None:
    layout = MasterLayout.for_weights(MODEL)
    master = layout.from_weights(MODEL)
    master[5:TILE] = -(2**31)
    layout.check_range(master.numpy())


def test_a_usual_learning_rate_is_taken() -> None:
    check_learning_rate(SPSAMethod(name="spsa", lr=1e-6, clip=64.0), MasterLayout.for_weights(MODEL))


def test_a_learning_rate_that_rounding_would_swallow_is_refused_with_the_numbers() -> None:
    layout = MasterLayout.for_weights(MODEL)
    with pytest.raises(SpecError) as refusal:
        check_learning_rate(SPSAMethod(name="spsa", lr=1e-9, clip=8.0), layout)
    assert "'scalar'" in refusal.value.what
    assert "1e-09. That is 0.034 of their steps of 2^-25" in refusal.value.why
    assert "raise method.lr to 2.4e-07" in refusal.value.next_step
    check_learning_rate(SPSAMethod(name="spsa", lr=2.4e-7, clip=8.0), layout)


def test_a_learning_rate_that_could_wrap_is_refused() -> None:
    layout = MasterLayout.for_weights(MODEL)
    with pytest.raises(SpecError, match="the learning rate is too large"):
        check_learning_rate(SPSAMethod(name="spsa", lr=0.5, clip=64.0), layout)
