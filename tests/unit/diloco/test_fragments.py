"""How parameters are dealt out to fragments, and the way between named tensors and flat vectors."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.diloco.fragments import Layout
from p2ptrain.errors import SpecError

Shapes = dict[str, tuple[int, ...]]

SHAPES: Shapes = {
    "model.embed.weight": (11, 4),
    "model.layers.0.attention.weight": (4, 4),
    "model.layers.0.norm.weight": (4,),
    "model.layers.1.attention.weight": (4, 4),
    "model.layers.1.norm.weight": (4,),
    "model.layers.2.attention.weight": (4, 4),
    "model.layers.2.norm.weight": (4,),
    "model.norm.weight": (4,),
    "model.scale": (),
    "head.weight": (7, 4),
}


def names(layout: Layout) -> list[list[str]]:
    return [[slot.name for slot in fragment] for fragment in layout.fragments]


def random_tensors(shapes: Shapes = SHAPES, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


@st.composite
def models(draw: st.DrawFn) -> tuple[Shapes, int]:
    """(shapes, a number of fragments that is not too large)."""
    layers, per_layer = draw(st.integers(1, 10)), draw(st.integers(1, 3))
    outside = draw(st.lists(st.lists(st.integers(1, 30), max_size=3).map(tuple), max_size=6))
    shapes: Shapes = {f"outside.{number}_": shape for number, shape in enumerate(outside)}
    shapes |= {f"h.{layer}.w{part}": (part + 1, 5) for layer in range(layers) for part in range(per_layer)}
    return shapes, draw(st.integers(1, layers))


@given(models())
def test_every_row_of_every_parameter_is_in_exactly_one_fragment(model: tuple[Shapes, int]) -> None:
    shapes, count = model
    layout = Layout.of(shapes, count)
    slots = [slot for fragment in layout.fragments for slot in fragment]
    for name, shape in shapes.items():
        ranges = sorted((slot.start, slot.stop) for slot in slots if slot.name == name)
        assert [row for start, stop in ranges for row in range(start, stop)] == list(range(shape[0] if shape else 1))
    assert len(layout.fragments) == count
    assert sum(layout.sizes) == sum(prod(shape) for shape in shapes.values())
    assert all(layout.sizes)


@given(models())
def test_gathering_and_assembling_gives_back_every_model(model: tuple[Shapes, int]) -> None:
    shapes, count = model
    layout, source = Layout.of(shapes, count), random_tensors(shapes)
    assembled = layout.assemble([layout.gather(source, index) for index in range(count)])
    assert assembled.keys() == source.keys()
    assert all(torch.equal(assembled[name], tensor) for name, tensor in source.items())


@given(models())
def test_what_is_outside_the_layers_is_balanced(model: tuple[Shapes, int]) -> None:
    """Matrices are shared alike up to a row; a fragment that was given something whole exceeds the smallest by no more
    than the largest of such tensors."""
    shapes, count = model
    layout = Layout.of(shapes, count)
    whole = {name: prod(shape) for name, shape in shapes.items() if len(shape) < 2 or shape[0] < count}
    whole = {name: elements for name, elements in whole.items() if name.startswith("outside")}
    for fragment, size in zip(layout.fragments, layout.sizes, strict=True):
        if any(slot.name in whole for slot in fragment):
            assert size - min(layout.sizes) <= max(whole.values())
    for name in shapes.keys() - whole.keys():
        if name.startswith("outside"):
            rows = [slot.stop - slot.start for part in layout.fragments for slot in part if slot.name == name]
            assert len(rows) == count
            assert max(rows) - min(rows) <= 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_layers_are_strided(count: int) -> None:
    for index, fragment in enumerate(names(Layout.of(SHAPES, count))):
        layers = {int(name.split(".")[2]) for name in fragment if "layers" in name}
        assert layers == set(range(index, 3, count))


def test_layers_count_from_the_first_one_whatever_its_number() -> None:
    """A model whose layers 0 and 1 are frozen still has its first trainable layer in fragment 0."""
    assert names(Layout.of({"h.2.w": (3,), "h.3.w": (3,)}, 2)) == [["h.2.w"], ["h.3.w"]]


def test_two_stacks_of_layers_are_told_apart() -> None:
    shapes = {"encoder.0.w": (1,), "encoder.1.w": (1,), "decoder.0.w": (1,), "decoder.1.w": (1,)}
    assert names(Layout.of(shapes, 4)) == [[name] for name in shapes]


def test_a_layers_numbered_parts_stay_together() -> None:
    shapes = {f"layers.{layer}.experts.{expert}.w": (2,) for layer in range(2) for expert in range(3)}
    assert [{name[:8] for name in fragment} for fragment in names(Layout.of(shapes, 2))] == [{"layers.0"}, {"layers.1"}]


def test_more_fragments_than_parts_are_refused() -> None:
    with pytest.raises(SpecError, match="can't be cut into 5") as refused:
        Layout.of({"h.0.w": (2,), "h.1.w": (2,), "norm": (2,)}, 5)
    assert "2 of them would be empty" in refused.value.why


def test_a_tied_weight_is_counted_once() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=31,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    layout = Layout.of({name: parameter.shape for name, parameter in model.named_parameters()}, 2)
    assert sum(layout.sizes) == sum(parameter.numel() for parameter in model.parameters())
    embeddings = [name for fragment in names(layout) for name in fragment if "embed" in name or "head" in name]
    assert embeddings == ["model.embed_tokens.weight"] * 2


def test_the_digest_names_shapes_names_and_their_places() -> None:
    layouts = [
        Layout.of(SHAPES, 2),
        Layout.of(SHAPES, 3),
        Layout.of({**SHAPES, "head.weight": (4, 7)}, 2),
        Layout.of({name.replace("head", "lm_head"): shape for name, shape in SHAPES.items()}, 2),
        Layout.of(dict(reversed(SHAPES.items())), 2),
    ]
    assert len({layout.digest for layout in layouts}) == len(layouts)
    assert Layout.of({name: torch.Size(shape) for name, shape in SHAPES.items()}, 2).digest == layouts[0].digest


# Tensors and vectors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gathering_and_scattering_changes_nothing(dtype: torch.dtype) -> None:
    layout, source = Layout.of(SHAPES, 2), random_tensors(dtype=dtype)
    target = {name: torch.zeros_like(tensor) for name, tensor in source.items()}
    for index, size in enumerate(layout.sizes):
        vector = layout.gather(source, index)
        assert (vector.dtype, vector.shape) == (torch.float32, (size,))
        layout.scatter(vector, target, index)
    assert all(torch.equal(target[name], source[name]) for name in SHAPES)


def test_scattering_rounds_to_the_models_own_precision() -> None:
    layout, target = Layout.of(SHAPES, 1), random_tensors(dtype=torch.bfloat16)
    vector = torch.linspace(-1, 1, layout.sizes[0])
    layout.scatter(vector, target, 0)
    assert torch.equal(layout.gather(target, 0), vector.to(torch.bfloat16).float())


def test_scattering_touches_its_own_rows_only_and_leaves_parameters_trainable() -> None:
    layout = Layout.of(SHAPES, 2)
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in random_tensors().items()}
    others = layout.gather(parameters, 1)
    layout.scatter(torch.zeros(layout.sizes[0]), parameters, 0)
    assert not layout.gather(parameters, 0).any()
    assert torch.equal(layout.gather(parameters, 1), others)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in parameters.values())


@pytest.mark.parametrize("shapes", [SHAPES, {"only.weight": (3, 2)}])
def test_a_gathered_vector_is_a_copy(shapes: Shapes) -> None:
    layout = Layout.of(shapes, 1)
    source = {name: torch.ones(shape) for name, shape in shapes.items()}
    layout.gather(source, 0).zero_()
    assert all(tensor.all() for tensor in source.values())


def test_a_tensor_that_is_not_contiguous_keeps_the_order_of_its_indices() -> None:
    layout, stored = Layout.of({"w": (3, 2)}, 1), torch.arange(6.0).view(2, 3)
    assert layout.gather({"w": stored.T}, 0).tolist() == [0, 3, 1, 4, 2, 5]
    layout.scatter(torch.arange(6.0), {"w": stored.T}, 0)
    assert stored.tolist() == [[0, 2, 4], [1, 3, 5]]
