"""No code that a run names is ever run. Whatever would bring code is refused before it is loaded.

Names and configurations come from strangers. `trust_remote_code=False` does not forbid all ways in which transformers
and datasets run strangers' code (docs/safety.md lists the others, with the versions of the libraries). Therefore

* all code that loads a model or tokenizer takes the library from `transformers_without_code`;
* `refuse_code` and the `check_…` functions look at what a run names, and say what in it wants code to be run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from p2ptrain.data.loading import loading
from p2ptrain.data.trust import is_folder, refuse_code_of
from p2ptrain.errors import DataError, SpecError

BRINGS_CODE = {
    "auto_map": "names Python files to run instead of transformers' own",
    "custom_generate": "names Python files to run instead of transformers' own",
    "custom_pipelines": "names Python files to run instead of transformers' own",
    "trust_remote_code": "asks for code of the model's author to be run",
    "allow_all_kernels": "asks for kernels from the hub, which are code",
    "use_kernels": "asks for kernels from the hub, which are code",
    "kernel_config": "asks for kernels from the hub, which are code",
    "quantization_config": "says that weights are quantized, which takes kernels from the hub, and can't be trained",
    "checkpoint_path": "names a file for the timm library to unpickle",
}
"""Keys of a configuration, at any depth. An empty or false value does no harm."""
OTHER_MODEL = "check the name, or pass a complete local folder with --model"
OTHER_TOKENIZER = "check the name, or name a local folder"
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation", "implementation_internal")
"""Endings of keys. Their value names a function in transformers, or a repository from which a function is fetched."""


def transformers_without_code() -> Any:
    """Import transformers so that it can't fetch kernels, and never asks whether it may run code.

    If the package `kernels` is installed, transformers fetches kernels from the hub, whatever `trust_remote_code` says.
    And for the parts of composite models it asks on the terminal whether it may run code.
    """
    sys.modules["kernels"] = None  # type: ignore[assignment]  # Python's own way to say that there is no such package
    import transformers
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # no time for an answer: the answer is no
    return transformers


def code_in(fields: Any) -> tuple[str, str] | None:
    """(dotted key, reason) of something in a JSON value that would have code run; None if there is nothing."""
    for key, name, value in _entries(fields):
        if name in BRINGS_CODE and value:
            return key, BRINGS_CODE[name]
        if name.endswith(IMPLEMENTATIONS) and (repository := _with_slash(value)):
            return key, f"names {repository!r}, a repository whose code would be fetched and run"
    return None


def _entries(fields: Any) -> Iterator[tuple[str, str, Any]]:
    """(dotted key, key, value) of all objects in a JSON value, also in lists.

    There is no recursion: a stranger decides how deep the value is.
    """
    waiting: list[tuple[str, Any]] = [("", fields)]
    while waiting:
        at, value = waiting.pop()
        if isinstance(value, list):
            waiting += [(f"{at}[{index}]", part) for index, part in enumerate(value)]
        elif isinstance(value, dict):
            for key, part in value.items():
                dotted = f"{at}.{key}" if at else key
                yield dotted, key, part
                waiting.append((dotted, part))


def _with_slash(value: Any) -> str:
    """A text with a slash in a value, or in its parts (one for each part of a model); empty if there is none.

    The names of transformers' own functions have no slash.
    """
    texts = [value, *(part for _, _, part in _entries(value))]
    return next((text for text in texts if isinstance(text, str) and "/" in text), "")


def refuse_code(config: dict[str, Any]) -> None:
    """Check the configuration in a run's spec.

    Raises:
        SpecError: something in it would have code run.
    """
    if found := code_in(config):
        raise SpecError(
            f"model.config.{found[0]} would run code from elsewhere",
            f"it {found[1]}",
            "remove it; if somebody else founded the run, don't join it: p2ptrain runs no code from the network",
        )


def check_model(name: str, revision: str | None) -> None:
    """Check what a pretrained model's repository or folder says of itself.

    Raises:
        DataError: there is no such model, its configuration can't be read, it wants code to be run, or it is only an
            adapter for another model.
    """
    transformers = transformers_without_code()
    from transformers.utils.peft_utils import find_adapter_config_file

    with loading("model", name, OTHER_MODEL):
        config, _ = transformers.PreTrainedConfig.get_config_dict(name, revision=revision or "main")
        adapter = find_adapter_config_file(name, revision=revision or "main")
    _check_config("model", name, "config.json", config)
    if is_folder(name) and is_folder(f"{name}/custom_generate"):  # nothing fetches such a folder from the hub
        refuse_code_of("model", name, "custom_generate holds Python files to run instead of transformers' own")
    if adapter is not None:
        raise DataError(
            f"{name!r} is an adapter, not a model",
            "its adapter_config.json names another model, which would be loaded without a check",
            "merge it into that model, and name the folder of the result",
        )


def check_tokenizer(name: str) -> None:
    """Check what a tokenizer's repository or folder says of itself.

    Raises:
        DataError: there is no such tokenizer, its configuration can't be read, or it wants code to be run.
    """
    transformers_without_code()
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    with loading("tokenizer", name, OTHER_TOKENIZER):
        config = get_tokenizer_config(name)
    _check_config("tokenizer", name, "tokenizer_config.json", config)


def _check_config(kind: str, name: str, file: str, fields: Any) -> None:
    if found := code_in(fields):
        refuse_code_of(kind, name, f"{found[0]} in its {file} {found[1]}")
