"""Models built as the spec says, and errors that say what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from p2ptrain.errors import DataError, SpecError
from p2ptrain.run import RunSpec
from p2ptrain.tasks.model import build_model
from p2ptrain.tasks.tokenizer import ByteTokenizer
from tests.unit.tasks.samples import CLASSIFICATION, example_spec, tiny_spec

BYTES = ByteTokenizer()
LAST_WEIGHT = "model.layers.1.mlp.up_proj.weight"


def build(spec: RunSpec, override: str | None = None) -> Any:
    return build_model(spec, BYTES, override)


def same_weights(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build(tiny_spec()).save_pretrained(folder)
    return folder


# From scratch --------------------------------------------------------------------------------------------------------


def test_a_model_is_float32_and_embeds_the_tokenizers_tokens() -> None:
    model = build(tiny_spec())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == 257
    assert (model.config.eos_token_id, model.config.bos_token_id, model.config.pad_token_id) == (256, None, None)


def test_the_spec_alone_decides_the_initial_weights() -> None:
    torch.manual_seed(1)
    first, drawn = build(tiny_spec()), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1)), "nobody else's random numbers are used up"
    assert same_weights(first, build(tiny_spec()))
    assert not same_weights(first, build(tiny_spec(evaluated=41)))


@pytest.mark.parametrize("config", [{"num_hidden_layers": 1}, {"vocab_size": 300}, {"tie_word_embeddings": True}])
def test_the_configuration_is_the_specs(config: dict[str, Any]) -> None:
    model = build(tiny_spec(**config))
    assert {key: getattr(model.config, key) for key in config} == config


def test_an_architectures_own_and_common_names_are_both_understood() -> None:
    for config in ({"n_embd": 8, "n_layer": 1, "n_head": 2}, {"hidden_size": 8, "num_hidden_layers": 1, "n_head": 2}):
        assert build(tiny_spec("gpt2", **config)).transformer.wte.weight.shape == (257, 8)


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(SpecError, match="no model type 'lama'"):
        build(tiny_spec("lama"))


@pytest.mark.parametrize(
    ("field", "hint"), [("hiden_size", "did you mean 'hidden_size'?"), ("zzz", "see the architecture's documentation")]
)
def test_a_misspelt_field_is_refused_with_a_suggestion(field: str, hint: str) -> None:
    with pytest.raises(SpecError, match=f"config.{field}: llama has no such field") as refused:
        build(tiny_spec(**{field: 3}))
    assert refused.value.next_step == hint


@pytest.mark.parametrize(
    "config", [{"hidden_size": -8}, {"num_attention_heads": 0}, {"hidden_act": "nosuch"}, {"dtype": "no"}]
)
def test_values_that_make_no_model_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="does not make a llama") as refused:
        build(tiny_spec(**config))
    assert refused.value.why


def test_an_architecture_that_predicts_no_next_token_is_refused() -> None:
    with pytest.raises(SpecError, match="vit is no model for language-modelling") as refused:
        build(tiny_spec("vit"))
    assert "predicts the next token" in refused.value.why


@pytest.mark.parametrize("task", [None, CLASSIFICATION])
@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_encoder_decoders_are_not_supported(tmp_path: Path, architecture: str, task: dict[str, Any] | None) -> None:
    spec = example_spec(tmp_path, task, architecture=architecture) if task else tiny_spec(architecture)
    with pytest.raises(SpecError, match=f"{architecture} is not supported") as refused:
        build(spec)
    assert "encoder-decoder" in refused.value.why


# Pretrained ----------------------------------------------------------------------------------------------------------


def test_a_pretrained_folder_is_loaded_in_float32(saved: Path, tmp_path: Path) -> None:
    build(tiny_spec()).to(torch.bfloat16).save_pretrained(tmp_path)
    assert same_weights(build(tiny_spec(pretrained=str(saved))), build(tiny_spec()))
    halves = build(tiny_spec(pretrained=str(tmp_path)))
    assert {parameter.dtype for parameter in halves.parameters()} == {torch.float32}


def test_a_volunteers_folder_stands_for_the_hub_name(saved: Path) -> None:
    assert same_weights(build(tiny_spec(pretrained="nobody/has-this"), override=str(saved)), build(tiny_spec()))


@pytest.mark.parametrize("name", ["nobody/has-this", "/no/such/folder", "not a name", "x" * 300])
def test_a_model_that_is_not_there_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(DataError, match=f"can't load the model '{name}'") as missing:
        build(tiny_spec(pretrained=name))
    assert missing.value.why
    assert "--model" in missing.value.next_step


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    weights: dict[str, torch.Tensor | None] = {**load_file(folder / "model.safetensors"), **changes}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def test_a_model_without_one_of_its_weights_is_incomplete(saved: Path, tmp_path: Path) -> None:
    """transformers would fill it with random numbers, on every peer with others."""
    folder = shutil.copytree(saved, tmp_path / "model")
    change_weights(folder, **{LAST_WEIGHT: None})
    with pytest.raises(DataError, match="is incomplete") as incomplete:
        build(tiny_spec(pretrained=str(folder)))
    assert incomplete.value.why == f"1 weights are missing, e.g. {LAST_WEIGHT}"


def test_a_model_with_a_weight_of_another_shape_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    change_weights(folder, **{LAST_WEIGHT: torch.ones(3, 3)})
    with pytest.raises(DataError, match="do not fit its config"):
        build(tiny_spec(pretrained=str(folder)))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_folder_without_one_of_its_files_is_an_error(saved: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(DataError, match="can't load the model"):
        build(tiny_spec(pretrained=str(folder)))
