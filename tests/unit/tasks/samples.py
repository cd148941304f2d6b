"""A tiny run, and text whose held-out documents can be told from the others by a letter."""

from __future__ import annotations

from typing import Any

import numpy as np

from p2ptrain.run import RunSpec
from p2ptrain.tasks.documents import is_held_out
from p2ptrain.tasks.tokenizer import Tokens

TINY_LLAMA = {
    "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip


def tiny_spec(
    architecture: str = "llama",
    pretrained: str | None = None,
    data: dict[str, Any] | None = None,
    evaluated: int = 40,
    **config: Any,
) -> RunSpec:
    """A run of a model with a few thousand parameters; `config` are fields of its architecture."""
    scratch = {"architecture": architecture, "config": {**TINY_LLAMA, **config} if architecture == "llama" else config}
    return RunSpec.model_validate(
        {
            "run": {"name": "tiny"},
            "model": {"pretrained": pretrained} if pretrained else scratch,
            "data": data or {"source": "stdlib-python", "sequence_length": 32, "held_out": 0.2},
            "method": {"name": "diloco", "schedule": "constant"},
            "eval": {"sequences": evaluated},
        }
    )


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
