"""Build the model that a run's spec describes: from scratch by its configuration, or pretrained by name or folder."""

from __future__ import annotations

import difflib
from typing import Any

import torch

from p2ptrain.errors import DataError, SpecError
from p2ptrain.run import RunSpec
from p2ptrain.run.spec import ModelSection
from p2ptrain.tasks.documents import TextData, text_data
from p2ptrain.tasks.tokenizer import Tokenizer


def build_model(spec: RunSpec, tokenizer: Tokenizer, override: str | None = None) -> torch.nn.Module:
    """The model in float32 on the CPU.

    Random initialisation is seeded by the spec, so peers on the same platform build the same weights and need not
    fetch them.

    Args:
        override: a local folder to load instead of the pretrained model that the spec names.

    Raises:
        SpecError: the configuration does not fit the architecture, the tokenizer or the sequence length.
        DataError: the pretrained model can't be loaded, or is incomplete.
    """
    model: torch.nn.Module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(spec.digest[:8], "little"))
        if spec.model.pretrained is not None:
            model = _pretrained(spec.model, override)
        else:
            model = _from_scratch(spec.model, tokenizer)
    _check_sizes(getattr(model, "config", None), text_data(spec), tokenizer)
    return model


def _from_scratch(section: ModelSection, tokenizer: Tokenizer) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    name = section.architecture
    try:
        default = AutoConfig.for_model(name)
    except (ValueError, KeyError):
        raise SpecError(
            f"model.architecture: transformers knows no model type {name!r}", "", "e.g. 'llama', 'gpt2', 'qwen3'"
        ) from None
    known = set(default.to_dict()) | set(getattr(default, "attribute_map", {}))
    for key in section.config:
        if key not in known:  # transformers would take it silently and ignore it
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see the architecture's documentation"
            raise SpecError(f"model.config.{key}: {name} has no such field", "", hint)
    fields = {"vocab_size": tokenizer.vocab_size, "eos_token_id": tokenizer.end, "bos_token_id": None,
              "pad_token_id": None, **section.config}  # fmt: skip
    try:
        config = AutoConfig.for_model(name, **fields)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError) as error:
        raise SpecError(
            f"model.config does not make a {name}", str(error).splitlines()[0], "correct the values in [model.config]"
        ) from None


def _pretrained(section: ModelSection, override: str | None) -> Any:
    from transformers import AutoModelForCausalLM

    name = override or section.pretrained
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name, revision=section.revision or "main", dtype=torch.float32, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise DataError(
            f"can't load the model {name!r}",
            str(error).splitlines()[0],
            "check the name and the connection to the hub, or pass a complete local folder with --model",
        ) from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise DataError(
            f"the model {name!r} is incomplete",
            f"{len(missing)} weights are missing, e.g. {missing[0]}",
            "download it again, or pass a complete folder with --model",
        )
    return model


def _check_sizes(config: Any, data: TextData, tokenizer: Tokenizer) -> None:
    if config.vocab_size < tokenizer.vocab_size:
        raise SpecError(
            "the tokenizer does not fit the model",
            f"{data.tokenizer!r} has {tokenizer.vocab_size} tokens, the model embeds {config.vocab_size}",
            "use the model's own tokenizer, or leave out model.config.vocab_size",
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and longest < data.sequence_length:
        raise SpecError(
            "data.sequence_length is more than the model can take",
            f"{data.sequence_length} tokens, the model takes {longest}",
            "lower data.sequence_length or raise model.config.max_position_embeddings",
        )
