"""The TOML with comments that `p2ptrain new` writes. It is made from the spec's own fields and descriptions."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from p2ptrain.run.method import DiLoCoMethod
from p2ptrain.run.spec import LoraSection, ModelSection, RunSpec, StdlibData
from p2ptrain.run.task import Chat, Classification, Completion, LanguageModelling

_SECTIONS: dict[str, Any] = {name: field.annotation for name, field in RunSpec.model_fields.items()}
_SECTIONS |= {"data": StdlibData, "task": LanguageModelling, "method": DiLoCoMethod}  # these have several kinds
_CHOSEN: dict[str, dict[str, Any]] = {
    "model": {"architecture": "llama"},
    "data": {"source": "stdlib-python"},
    "task": {"kind": "language-modelling"},
    "method": {"name": "diloco", "total_steps": 4000},
}
_MODEL_CONFIG = """hidden_size = 128
intermediate_size = 352
num_hidden_layers = 5
num_attention_heads = 4
max_position_embeddings = 512
tie_word_embeddings = true
"""
_PROMPT = "Review: {text}\nSentiment (positive or negative):"
_LABELS = {"label_column": "label", "labels": ("negative", "positive")}
_ALTERNATIVES: dict[type[BaseModel], dict[str, Any]] = {
    LoraSection: {},
    Completion: {"kind": "completion", "prompt": _PROMPT, "completion": " {label}", **_LABELS},
    Chat: {"kind": "chat", "messages": "messages"},
    Classification: {"kind": "classification", "text": "{text}", **_LABELS},
}
"""Sections that are commented out as a whole."""
_OTHER_DATA = """
# Other sources:
#   source = "files"     paths = ["~/texts/*.txt"]; tables (.jsonl, .csv, .parquet) also take text_column
#   source = "dataset"   dataset = "allenai/c4", subset = "en", split = "train", streaming = true, text_column = "text"
# Both take max_left_out = 0.05: the largest share of rows that may be left out because they can't be used.
"""


def template(name: str) -> str:
    """A valid run spec in TOML with a comment above every field."""
    parts = [
        "# A run spec: everything that all peers of a run agree on. Lines that are commented out show the defaults.\n"
        "# Choices of one volunteer (device, batch size, port, folder) are options of the command line instead.\n"
    ]
    for section, model in _SECTIONS.items():
        chosen = {"name": name} if section == "run" else _CHOSEN.get(section, {})
        parts.append(_section(section, model, chosen))
        if section == "model":
            config, lora = (_comment(ModelSection.model_fields[key].description) for key in ("config", "lora"))
            parts.append(f"[model.config]\n{config}{_MODEL_CONFIG}")
            parts.append(lora + _alternative("model.lora", LoraSection))
        if section == "task":
            others = (_alternative("task", other) for other in (Completion, Chat, Classification))
            parts += ["# Or, with a table as data:\n" + other for other in others]
        if section == "data":
            parts[-1] += _OTHER_DATA
    return "\n".join(parts)


def _section(section: str, model: type[BaseModel], chosen: dict[str, Any]) -> str:
    return f"[{section}]\n" + "".join(_field(key, field, chosen) for key, field in model.model_fields.items())


def _alternative(section: str, model: type[BaseModel]) -> str:
    return textwrap.indent(_section(section, model, _ALTERNATIVES[model]), "#   ")


def _field(key: str, field: FieldInfo, chosen: dict[str, Any]) -> str:
    if key in ("config", "lora"):
        return ""  # a table of its own
    text = _comment(field.description)
    if key in chosen:
        return f"{text}{key} = {_toml(chosen[key])}\n"
    return f"{text}# {key} = {'…' if field.default is None else _toml(field.default)}\n"


def _comment(description: str | None) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(description or "", 112))


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)
