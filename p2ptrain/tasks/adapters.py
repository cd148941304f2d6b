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
from p2ptrain.text import first_line

FILE = "adapters.safetensors"
"""File of an export. It has the trained parameters under the run's own names, which merged weights do not keep."""


def add_adapters(model: torch.nn.Module, section: LoraSection) -> None:
    """Put adapters around the target modules, and freeze all other parameters. A is random (torch's generator), B is 0.

    Raises:
        SpecError: a pattern matches no linear module, or peft has no default for this architecture.
        DataError: peft is not installed.
    """
    try:
        import peft
    except Exception as error:  # peft is missing, or does not fit to the other libraries
        missing = isinstance(error, ModuleNotFoundError)
        why, more = ("it is not installed", "") if missing else (first_line(error), "--upgrade ")
        what = "this run trains LoRA adapters, which need the library peft"
        raise DataError(what, why, f'pip install {more}"p2ptrain[lora]"') from None
    targets = _targets(model, section)
    config = peft.LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=0.0,
        target_modules="|".join(map(re.escape, targets)),  # a string is a regular expression for the whole name
    )
    with warnings.catch_warnings():  # peft finds out by itself whether a weight is transposed, and warns
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        try:
            peft.inject_adapter_in_model(config, model)
        except Exception as error:  # of peft: it knows some modules that it can't adapt
            step = "name other modules in model.lora.targets"
            raise SpecError("model.lora: peft can't add the adapters", first_line(error), step) from None


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


def _defaults(model: Any) -> tuple[str, ...]:
    """peft's own choice of modules for an architecture."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

    architecture = model.config.model_type
    found = DEFAULTS.get(architecture)
    if not isinstance(found, list | tuple | set):
        raise SpecError(
            f"there are no default LoRA modules for the architecture {architecture!r}",
            "peft knows none, and the spec names none",
            "set model.lora.targets, e.g. ['q_proj', 'v_proj']",
        )
    return tuple(found)


def merged(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of the model without adapters: each is added to the weights that it adapts."""
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
    """Write all trained parameters (adapters, and what else is not frozen) to a file in `folder`."""
    from safetensors.torch import save_file

    trained = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / FILE, {"format": "pt", "order": json.dumps(list(trained))})


def exported_adapters(folder: Path) -> dict[str, torch.Tensor]:
    """Read what `export_adapters` has written, in the model's own order.

    Raises:
        StorageError: the file is missing or damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(folder / FILE, framework="pt") as file:
            return {name: file.get_tensor(name) for name in json.loads(file.metadata()["order"])}
    except Exception as error:  # of the system, of safetensors, or of its metadata
        raise StorageError(f"{folder / FILE} can't be read", first_line(error), "export the run again") from None
