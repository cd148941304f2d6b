"""Build the model that a run's spec describes, from a configuration or from pretrained weights, and choose which
parameters are trained.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch

from p2ptrain.causes import cause_of
from p2ptrain.data.loading import loading
from p2ptrain.errors import DataError, SpecError, StorageError
from p2ptrain.parameters import digest_of_frozen, shared_parameters
from p2ptrain.run import Digest, RunSpec
from p2ptrain.run.task import Classification
from p2ptrain.tasks.adapters import add_adapters, exported_adapters
from p2ptrain.tasks.documents import TextData, text_data
from p2ptrain.tasks.patterns import matching
from p2ptrain.tasks.tokenizer import Tokenizer, load_tokenizer
from p2ptrain.tasks.trust import OTHER_MODEL, check_model, refuse_code, transformers_without_code


def build_model(spec: RunSpec, tokenizer: Tokenizer, override: str | None = None) -> torch.nn.Module:
    """Build the run's model in float32 on the CPU; parameters that are not trained have requires_grad = False.

    The spec seeds all random weights (of a model, a new head, adapters). So peers on the same platform build the same
    weights, and need not fetch them.

    Args:
        override: a local folder to load instead of the pretrained model that the spec names.

    Raises:
        SpecError: the configuration does not fit the architecture, the task, the tokenizer or the sequence length; or
            a pattern matches nothing.
        DataError: the pretrained model can't be loaded, or is incomplete.
    """
    model: torch.nn.Module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(spec.digest[:8], "little"))
        if spec.model.pretrained is None:
            model = _from_scratch(spec, tokenizer.vocab_size, tokenizer.end)
        else:
            model = _pretrained(spec, override)
        _check_sizes(getattr(model, "config", None), text_data(spec), tokenizer)
        _choose_trained(model, spec)
    if isinstance(spec.task, Classification):  # a decoder's head looks for the last token that is no padding
        config: Any = model.config
        config.pad_token_id = padding_id(model, tokenizer)
    return model


def tokenizer_name(spec: RunSpec, override: str | None) -> str:
    """Hub name or folder of the run's tokenizer. A folder instead of the pretrained model brings its own."""
    name = text_data(spec).tokenizer
    return override if override and name == spec.model.pretrained else name


def count_parameters(spec: RunSpec, override: str | None = None, vocabulary: int | None = None) -> tuple[int, int]:
    """Count the model's parameters without loading or making any weights.

    Args:
        vocabulary: number of the tokenizer's tokens; None: load the tokenizer and count.

    Returns:
        (all parameters, trained parameters).

    Raises:
        SpecError, DataError: as `build_model` would.
    """
    scratch = spec.model.pretrained is None
    if scratch and vocabulary is None:
        vocabulary = load_tokenizer(tokenizer_name(spec, override)).vocab_size
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # a meta tensor has a shape and no memory
        model = _from_scratch(spec, vocabulary or 0, None) if scratch else _pretrained(spec, override, outline=True)
        _choose_trained(model, spec)
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, trained in counts if trained)


def padding_id(model: torch.nn.Module, tokenizer: Tokenizer) -> int:
    """Id of a padding token that the model knows; not every tokenizer has one."""
    config: Any = model.config
    own = getattr(config, "pad_token_id", None)
    return own if own is not None and 0 <= own < config.vocab_size else tokenizer.end


def exported_parameters(spec: RunSpec, folder: Path) -> tuple[dict[str, torch.Tensor], Digest | None]:
    """Read the run's parameters from an exported folder.

    Returns:
        The trained parameters (float32, in the model's own order), and the digest of the others; None if adapters are
        merged into them.

    Raises:
        DataError: the folder wants code to be run, or holds no model.
        StorageError: it can't be loaded.
    """
    if spec.model.lora is not None:
        return exported_adapters(folder), None
    check_model(str(folder), None)
    kind = _auto_class(spec)
    with loading("model", str(folder), "export the run again", StorageError):
        model = kind.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, weights_only=True)
    _choose_trained(model, spec)
    return {name: tensor.detach() for name, tensor in shared_parameters(model).items()}, digest_of_frozen(model)


def _choose_trained(model: torch.nn.Module, spec: RunSpec) -> None:
    """Freeze all parameters but those that the spec's patterns name, and add adapters. With adapters and no patterns, a
    classification head is trained, too.
    """
    section = spec.model
    if not section.trainable and section.lora is None:
        return
    named = dict(model.named_parameters())
    if section.trainable:
        chosen = set(matching(section.trainable, list(named), "model.trainable"))
    else:
        chosen = {name for name in named if isinstance(spec.task, Classification) and _is_head(model, name)}
    if section.lora is not None:
        add_adapters(model, section.lora)
    for name, parameter in named.items():  # `named` was made before the adapters' parameters
        parameter.requires_grad_(name in chosen)


def _is_head(model: Any, name: str) -> bool:
    """Whether a parameter belongs to the head: to no part that all models of the architecture have, or to the pooler,
    which some pretrained encoders lack.
    """
    prefix = f"{model.base_model_prefix}."
    return not name.startswith(prefix) or name.startswith(f"{prefix}pooler.")


def _auto_class(spec: RunSpec) -> Any:
    library = transformers_without_code()
    classifies = isinstance(spec.task, Classification)
    return library.AutoModelForSequenceClassification if classifies else library.AutoModelForCausalLM


def _label_fields(spec: RunSpec) -> dict[str, Any]:
    """Fields of a configuration that a classification sets."""
    if not isinstance(spec.task, Classification):
        return {}
    words = dict(enumerate(spec.task.labels))
    return {"id2label": words, "label2id": {word: index for index, word in words.items()}}


def _from_scratch(spec: RunSpec, vocabulary: int, end: int | None) -> Any:
    section = spec.model
    refuse_code(section.config)
    config_of = transformers_without_code().AutoConfig.for_model
    name = section.architecture
    try:
        default = config_of(name)
    except (ValueError, KeyError):
        what = f"model.architecture: transformers knows no model type {name!r}"
        raise SpecError(what, "", "use e.g. 'llama', 'gpt2' or 'qwen3'") from None
    known = set(default.to_dict()) | set(getattr(default, "attribute_map", {}))
    for key in section.config:
        if key not in known:  # transformers would ignore it without a word
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see the architecture's documentation"
            raise SpecError(f"model.config.{key}: {name} has no such field", "", hint)
    tokens = {"vocab_size": vocabulary, "eos_token_id": end, "bos_token_id": None, "pad_token_id": None}
    fields, kind = {**tokens, **section.config, **_label_fields(spec)}, _auto_class(spec)
    try:
        config = config_of(name, **fields)
        return kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # of transformers: each architecture checks its fields in its own way, or not at all
        what = f"model.config does not make a {name}"
        raise SpecError(what, *cause_of(error, "correct the values in [model.config]")) from None


def _pretrained(spec: RunSpec, override: str | None, outline: bool = False) -> Any:
    """The pretrained model; with `outline`, it is made without reading its weights."""
    name, revision = override or spec.model.pretrained or "", spec.model.revision or "main"
    fields, safely = _label_fields(spec), {"dtype": torch.float32, "trust_remote_code": False}
    check_model(name, revision)
    kind, configs = _auto_class(spec), transformers_without_code().AutoConfig
    with loading("model", name, OTHER_MODEL):
        if outline:
            config = configs.from_pretrained(name, revision=revision, trust_remote_code=False, **fields)
            return kind.from_config(config, **safely)
        model, report = kind.from_pretrained(
            name, revision=revision, weights_only=True, output_loading_info=True, **safely, **fields
        )
    # A missing head is made with the spec's seed, the same on every peer; all other weights must be there.
    fresh = isinstance(spec.task, Classification)
    missing = sorted(key for key in report["missing_keys"] if not (fresh and _is_head(model, key)))
    if missing:
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
            f"it is {data.sequence_length} tokens, and the model takes {longest}",
            "lower data.sequence_length or raise model.config.max_position_embeddings",
        )
