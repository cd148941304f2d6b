"""A run whose model has a few thousand parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from p2ptrain.run import RunSpec
from tests.unit.tasks.samples import TINY_LLAMA


def spec_of(corpus: Path, **method: Any) -> RunSpec:
    return RunSpec.model_validate(
        {
            "run": {"name": "tiny"},
            "model": {"architecture": "llama", "config": {**TINY_LLAMA, "tie_word_embeddings": True}},
            "data": {"source": "files", "paths": [str(corpus)], "sequence_length": 32, "held_out": 0.2},
            "method": {"name": "diloco", "schedule": "constant", "inner_steps": 4, "fragments": 2, **method},
            "eval": {"every": 2, "sequences": 8},
        }
    )
