"""A tiny run, and text whose held-out documents can be told from the others by a letter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2ptrain.errors import DataError, SpecError
from p2ptrain.run import RunSpec
from p2ptrain.tasks import LocalOptions, Task, open_task
from p2ptrain.tasks.documents import is_held_out
from p2ptrain.tasks.tokenizer import ByteTokenizer, Tokens

TINY_LLAMA = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}

TINY_GPT2 = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 64}
COMPLETION = {
    "kind": "completion",
    "prompt": "{text}?",
    "completion": " {mood}",
    "label_column": "mood",
    "labels": ["bad", "good"],
}
CLASSIFICATION = {"kind": "classification", "text": "{text}", "label_column": "mood", "labels": ["bad", "good"]}
REVIEWS: list[dict[str, Any]] = [
    {
        "text": f"{number} is {'very ' * (number % 4)}{'fine' if number % 3 else 'poor'}",
        "mood": "good" if number % 3 else "bad",
    }
    for number in range(60)
]


def example_spec(folder: Path, task: dict[str, Any], rows: list[dict[str, Any]] = REVIEWS, **fields: Any) -> RunSpec:
    """A run on these rows, which are written to the folder; `fields` are those of `tiny_spec`."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": "files", "paths": [str(path)], "sequence_length": 32, "held_out": 0.3, **fields.pop("data", {})}
    return tiny_spec(data=data, task=task, **fields)


def framing_tokenizer(folder: Path) -> Path:
    """Bytes, with 257 before and 258 after a text on its own, as encoders' tokenizers do. It knows no padding."""
    from tokenizers import Tokenizer, processors

    ByteTokenizer().save(folder)
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    fast.add_special_tokens(["[B]", "[A]"])
    fast.post_processor = processors.TemplateProcessing(
        single="[B] $A [A]", special_tokens=[("[B]", 257), ("[A]", 258)]
    )
    fast.save(str(folder / "tokenizer.json"))
    return folder


def tiny_spec(
    architecture: str = "llama",
    pretrained: str | None = None,
    data: dict[str, Any] | None = None,
    evaluated: int = 40,
    task: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    **config: Any,
) -> RunSpec:
    """A run of a model with a few thousand parameters.

    Args:
        model: further fields of the model's section.
        config: fields of its architecture.
    """
    known = {"llama": TINY_LLAMA, "bert": TINY_LLAMA, "gpt2": TINY_GPT2}.get(architecture, {})
    scratch = {"architecture": architecture, "config": {**known, **config}}
    return RunSpec.model_validate(
        {
            "run": {"name": "tiny"},
            "model": ({"pretrained": pretrained} if pretrained else scratch) | (model or {}),
            "task": task or {"kind": "language-modelling"},
            "data": data or {"source": "stdlib-python", "sequence_length": 32, "held_out": 0.2},
            "method": {"name": "diloco", "schedule": "constant"},
            "eval": {"sequences": evaluated},
        }
    )


def opened(spec: RunSpec, **options: Any) -> Task:
    return open_task(spec, LocalOptions(device="cpu", **options))


def refusal(spec: RunSpec, kind: type[SpecError | DataError] = SpecError, **options: Any) -> SpecError | DataError:
    """The error of a task that can't be opened: one line each of what, why and what next."""
    with pytest.raises(kind) as refused:
        opened(spec, **options)
    error = refused.value
    assert error.next_step
    assert "\n" not in error.what + error.why + error.next_step
    return error


def marked_documents(count: int, fraction: float, length: int = 40) -> list[str]:
    """Documents full of H that are held out, and documents full of T that are not, in turn."""
    found: dict[str, list[str]] = {"H": [], "T": []}
    for letter, documents in found.items():
        number = 0
        while len(documents) < count:
            text = f"{number} " + letter * length
            if is_held_out(text, fraction) == (letter == "H"):
                documents.append(text)
            number += 1
    return [document for pair in zip(found["H"], found["T"], strict=True) for document in pair]


def holds(tokens: Tokens, letter: str) -> bool:
    return bool(np.isin(ord(letter), tokens))
