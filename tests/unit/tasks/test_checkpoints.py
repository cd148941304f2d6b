"""Whether a run can begin with the model in a folder: damaged, unusual and unsuitable files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from p2ptrain.errors import DataError
from tests.unit.tasks.samples import opened, refusal, tiny_spec


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    opened(tiny_spec("gpt2")).export({}, folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


WEIGHT = "transformer.h.0.mlp.c_fc.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_a_number_that_is_not_finite_is_damaged(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[WEIGHT][1, 2] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    error = refusal(tiny_spec(pretrained=str(folder)), DataError)
    assert "is damaged" in error.what
    assert WEIGHT in error.why


CONVERTED = {"complex": lambda weight: weight * 1j, "integers": torch.Tensor.long, "booleans": torch.Tensor.bool}


@pytest.mark.parametrize("kind", CONVERTED)
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_checkpoint_of_other_numbers_than_floating_ones_is_refused(folder: Path, kind: str, file: str) -> None:
    """transformers would convert them to float32 without a word."""
    weights = load_file(folder / "model.safetensors")
    weights[WEIGHT] = CONVERTED[kind](weights[WEIGHT])
    (folder / "model.safetensors").unlink()
    if file == "model.safetensors":
        save_file(weights, folder / file, {"format": "pt"})
    else:
        torch.save(weights, folder / file)
    error = refusal(tiny_spec(pretrained=str(folder)), DataError)
    assert WEIGHT in error.why


def test_half_precision_and_integer_buffers_of_a_checkpoint_are_fine(folder: Path) -> None:
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["transformer.h.0.attn.bias"] = torch.ones(64, 64, dtype=torch.uint8)  # old GPT-2 has them
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    opened(tiny_spec(pretrained=str(folder)))


@pytest.mark.parametrize(("field", "value"), [("n_positions", 16), ("vocab_size", 300), ("n_embd", "8"), ("n_head", 3)])
def test_a_folder_whose_configuration_does_not_fit_its_weights_is_one_clear_error(
    folder: Path, field: str, value: Any
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, field: value}))
    error = refusal(tiny_spec(pretrained=str(folder)), DataError)
    assert str(value) in error.why


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_called_by_its_name(folder: Path, name: str) -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 12\n")
    data = {"source": "stdlib-python", "sequence_length": 32, "tokenizer": str(folder)}
    error = refusal(tiny_spec(pretrained=str(folder), data=data), DataError)
    assert error.why == f"{name} is only a pointer: Git LFS has not fetched the file itself"
    assert "git lfs pull" in error.next_step


def test_transposed_and_shared_weights_of_a_bin_file_get_memory_of_their_own(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    other = WEIGHT.replace("h.0", "h.1")
    weights[WEIGHT] = weights[WEIGHT].t().contiguous().t()
    weights["transformer.h.0.ln_1.weight"] = weights["transformer.h.0.ln_2.weight"]
    weights[other] = weights[other][:1].expand_as(weights[other])
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    task = opened(tiny_spec(pretrained=str(folder)))
    parameters = dict(task.model.named_parameters())
    assert all(parameter.is_contiguous() for parameter in parameters.values())
    assert torch.equal(parameters[WEIGHT], weights[WEIGHT])
    parameters["transformer.h.0.ln_1.weight"].data.fill_(7)
    assert not (parameters["transformer.h.0.ln_2.weight"] == 7).any(), "they are two parameters"
    task.export({}, tmp_path / "out")
    opened(tiny_spec(pretrained=str(tmp_path / "out")))
