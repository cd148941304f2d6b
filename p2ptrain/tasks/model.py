"""Build the model that a run's spec describes, from a configuration or from pretrained weights, and choose which
parameters are trained.
"""

from __future__ import annotations

import difflib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from p2ptrain.data.loading import loading
from p2ptrain.errors import DataError, SpecError, StorageError
from p2ptrain.parameters import digest_of_frozen, give_own_memory, not_finite, shared_parameters
from p2ptrain.run import Digest, RunSpec
from p2ptrain.run.task import Classification
from p2ptrain.tasks.adapters import add_adapters, exported_adapters
from p2ptrain.tasks.batch import is_out_of_memory
from p2ptrain.tasks.checkpoint import wrong_type
from p2ptrain.tasks.documents import text_data
from p2ptrain.tasks.patterns import matching
from p2ptrain.tasks.reasons import enough_memory, fetched_by_lfs, reason
from p2ptrain.tasks.tokenizer import Tokenizer, load_tokenizer
from p2ptrain.tasks.trust import OTHER_MODEL, check_model, refuse_code, transformers_without_code

ENCODER_DECODER = "it is an encoder-decoder; p2ptrain trains decoders, and classifies with decoders and encoders"


def build_model(spec: RunSpec, tokenizer: Tokenizer, override: str | None = None) -> torch.nn.Module:
    """Build the run's model in float32 on the CPU; parameters that are not trained have requires_grad = False.

    The spec seeds all random weights (of a model, a new head, adapters). So peers on the same platform build the same
    weights, and need not fetch them. `check_fit` says whether the model can do the run's task.

    Args:
        override: a local folder to load instead of the pretrained model that the spec names.

    Raises:
        SpecError: the configuration makes no model for the run's task, or a pattern matches nothing.
        DataError: the pretrained model can't be loaded, is damaged, or is incomplete.
        MemoryLimitError: the model does not fit into memory.
    """
    model: torch.nn.Module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(spec.digest[:8], "little"))
        if spec.model.pretrained is None:
            with enough_memory("to build the model"):
                model = _from_scratch(spec, _Ids.of(tokenizer))
        else:
            model = _pretrained(spec, override)
        give_own_memory(model)
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
        model = _from_scratch(spec, _Ids(vocabulary or 0, 0, 0)) if scratch else _outline(spec, override)
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


@dataclass(frozen=True, slots=True)
class _Ids:
    """What a new model's configuration has to know of the tokenizer."""

    size: int
    end: int
    pad: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> _Ids:
        return cls(tokenizer.vocab_size, tokenizer.end, tokenizer.pad)


def _from_scratch(spec: RunSpec, ids: _Ids) -> Any:
    section, name = spec.model, spec.model.architecture or ""
    refuse_code(section.config)
    default = _default_config(name)
    known = set(default.to_dict()) | set(getattr(default, "attribute_map", {}))
    for key in section.config:
        if key not in known:  # transformers would ignore it without a word
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see the architecture's documentation"
            raise SpecError(f"model.config.{key}: {name} has no such field", "", hint)
    _check_kind(f"model.architecture: {name}", default, spec, SpecError)
    fields = {"vocab_size": ids.size, "eos_token_id": ids.end, "bos_token_id": None, "pad_token_id": None}
    if not _takes(default, bos_token_id=None):
        fields["bos_token_id"] = ids.end
    if getattr(default, "pad_token_id", None) is not None:  # such architectures may need one, e.g. to count positions
        fields["pad_token_id"] = ids.pad
    try:
        config = type(default)(**{**fields, **section.config, **_label_fields(spec)})
        model = _auto_class(spec).from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # any: what the architecture's own code does with the values
        if is_out_of_memory(error):
            raise
        next_step = "correct the values in [model.config]"
        if fields["pad_token_id"] is None and "pad" in str(error) and "pad_token_id" not in section.config:
            next_step = "set model.config.pad_token_id to the id of a token that stands in no text"
        raise SpecError(f"model.config does not make a {name}", reason(error), next_step) from None
    if bad := not_finite(model):
        what = f"model.config makes a {name} with weights that are not finite"
        raise SpecError(what, f"e.g. those of {bad}", "correct the values in [model.config]")
    return model


def _default_config(name: str) -> Any:
    """An architecture's configuration with the values that transformers gives it. Raises SpecError if there is none."""
    configs = transformers_without_code().AutoConfig
    try:
        return configs.for_model(name)
    except Exception as error:  # some can't be made without values of their own
        known = isinstance(error, ValueError | KeyError)
        what = f"transformers {'knows no' if known else 'makes no'} model type {name!r}"
        why = "" if known else reason(error)
        raise SpecError(f"model.architecture: {what}", why, "use e.g. 'llama', 'gpt2' or 'qwen3'") from None


def _takes(default: Any, **fields: Any) -> bool:
    """Whether an architecture's configuration allows these values."""
    try:
        type(default)(**fields)
    except Exception:  # as in `_from_scratch`
        return False
    return True


def _check_kind(what: str, config: Any, spec: RunSpec, error: type[SpecError | DataError]) -> None:
    """Raises `error` if no model with this configuration does the spec's task."""
    classifies = isinstance(spec.task, Classification)
    next_step = "use e.g. 'bert', 'llama' or 'gpt2'" if classifies else "use a decoder, e.g. 'llama' or 'gpt2'"
    if error is DataError:
        next_step = "use another model"
    if getattr(config, "is_encoder_decoder", False):
        raise error(f"{what} is not supported", ENCODER_DECODER, next_step)
    if type(config) not in _auto_class(spec)._model_mapping:
        head = "classification head" if classifies else "language-modelling head, which predicts the next token,"
        why = f"transformers has no {head} for the type {config.model_type!r}"
        raise error(f"{what} is no model for {spec.task.kind}", why, next_step)


def _pretrained(spec: RunSpec, override: str | None) -> Any:
    name, revision = override or spec.model.pretrained or "", spec.model.revision or "main"
    with fetched_by_lfs("model", name):
        config = _pretrained_config(spec, name, revision)
        memory, warned = enough_memory(f"to load the model {name!r}"), warnings.catch_warnings()
        with loading("model", name, OTHER_MODEL), memory, warned:
            warnings.filterwarnings("ignore", message="Casting complex values")  # `wrong_type` refuses them
            model, report = _auto_class(spec).from_pretrained(
                name,
                config=config,
                revision=revision,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below
                dtype=torch.float32,
                trust_remote_code=False,
            )
    _check_loaded(spec, name, model, report)
    with loading("model", name, OTHER_MODEL):
        folder = Path(transformers_without_code().utils.cached_file(name, "config.json", revision=revision)).parent
        wrong = wrong_type(folder, dict(model.named_parameters()), model.base_model_prefix)
    if wrong is not None:
        what, why = f"the model {name!r} can't be trained", f"its weights {wrong[0]} are of the type {wrong[1]}"
        raise DataError(what, why, "use a model with floating-point weights")
    return model


def _check_loaded(spec: RunSpec, name: str, model: Any, report: dict[str, Any]) -> None:
    """Check that all weights were in the files, in their shapes, and finite. Raises DataError."""
    # A missing head is made with the spec's seed, the same on every peer; all other weights must be there.
    fresh = isinstance(spec.task, Classification)
    again = "download it again, or pass a complete folder with --model"
    missing = sorted(key for key in report["missing_keys"] if not (fresh and _is_head(model, key)))
    if missing:
        why = f"{len(missing)} weights are missing, e.g. {missing[0]}"
        raise DataError(f"the model {name!r} is incomplete", why, again)
    for key, found, wanted in sorted(report["mismatched_keys"]):
        shapes = f"{key} has the shape {tuple(found)}"
        if fresh and _is_head(model, key):
            why = f"{shapes}, and task.labels asks for {tuple(wanted)}"
            raise DataError(f"the model {name!r} has a head for other labels", why, "use its labels, or another model")
        what, why = f"the weights of {name!r} do not fit its config.json", f"{shapes}, not {tuple(wanted)}"
        raise DataError(what, why, again)
    if bad := not_finite(model):
        why = f"the weights {bad} hold numbers that are not finite (NaN or infinity)"
        raise DataError(f"the model {name!r} is damaged", why, again)


def _outline(spec: RunSpec, override: str | None) -> Any:
    """The pretrained model, made without reading its weights."""
    name, revision = override or spec.model.pretrained or "", spec.model.revision or "main"
    config = _pretrained_config(spec, name, revision)
    with loading("model", name, OTHER_MODEL):
        return _auto_class(spec).from_config(config, dtype=torch.float32, trust_remote_code=False)


def _pretrained_config(spec: RunSpec, name: str, revision: str) -> Any:
    """The pretrained model's configuration, after a check that it brings no code and does the task."""
    check_model(name, revision)
    with loading("model", name, OTHER_MODEL):
        configs, fields = transformers_without_code().AutoConfig, _label_fields(spec)
        config = configs.from_pretrained(name, revision=revision, trust_remote_code=False, **fields)
    _check_kind(f"the model {name!r}", config, spec, DataError)
    return config
