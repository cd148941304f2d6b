"""Low-rank adapters: W·x becomes W·x + α/r · B·A·x, with W frozen (LoRA, arXiv 2106.09685), through the peft library.

The adapters sit in the model itself, which keeps its class and its way of being called.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from p2ptrain.errors import DataError, SpecError, StorageError
from p2ptrain.run.spec import LoraSection
from p2ptrain.tasks.patterns import matching

FILE = "adapters.safetensors"
"""Of an export: what was trained, under the names that the run gives it. The merged weights can't tell."""


def add_adapters(model: torch.nn.Module, section: LoraSection) -> None:
    """Put adapters around the target modules; A is drawn from torch's random numbers, B is 0. Freezes all else.

    Raises:
        SpecError: a pattern that matches no linear module, or no default for this architecture.
        DataError: peft is not installed.
    """
    try:
        import peft
    except ImportError:
        raise DataError(
            "this run trains LoRA adapters, which need the library peft",
            "it is not installed",
            'pip install "p2ptrain[lora]"',
        ) from None
    targets = _targets(model, section)
    config = peft.LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=0.0,
        target_modules="|".join(map(re.escape, targets)),  # a string is a regular expression for the whole name
    )
    with warnings.catch_warnings():  # it finds out by itself which way round a weight lies, and says so
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        peft.inject_adapter_in_model(config, model)


def _targets(model: torch.nn.Module, section: LoraSection) -> list[str]:
    """Names of the modules that get an adapter."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers, with the weight transposed

    untied = {name for name, _ in model.named_parameters()}  # a tied head has no parameter of its own to freeze
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and f"{name}.weight" in untied
    ]
    return matching(section.targets or _defaults(model), linear, "model.lora.targets", anywhere=True)


def _defaults(model: torch.nn.Module) -> tuple[str, ...]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

    architecture = str(getattr(model.config, "model_type", ""))
    found = DEFAULTS.get(architecture)
    if not isinstance(found, list | tuple | set):
        raise SpecError(
            f"peft knows no default for LoRA on a {architecture}",
            "the spec names no modules",
            "set model.lora.targets, e.g. ['q_proj', 'v_proj']",
        )
    return tuple(found)


def merged(model: torch.nn.Module) -> torch.nn.Module:
    """A copy with each adapter added into the weights that it adapts: what it was without adapters."""
    from peft.tuners.lora import LoraLayer

    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, LoraLayer):
            adapted: Any = module
            adapted.merge()
            plain.set_submodule(name, adapted.get_base_layer())
    del plain.peft_config
    return plain


def export_adapters(model: torch.nn.Module, folder: Path) -> None:
    """Write what is trained, adapters and all else that is not frozen."""
    from safetensors.torch import save_file

    trained = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / FILE, {"format": "pt", "order": json.dumps(list(trained))})


def exported_adapters(folder: Path) -> dict[str, torch.Tensor]:
    """What `export_adapters` wrote, in the model's own order.

    Raises:
        StorageError: it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / FILE, framework="pt") as file:
            return {name: file.get_tensor(name) for name in json.loads(file.metadata()["order"])}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder / FILE} can't be read", str(error), "export the run again") from None
