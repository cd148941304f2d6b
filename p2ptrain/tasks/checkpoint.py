"""The types of the numbers in a pretrained model's files.

transformers converts all of them to float32 without a word: complex numbers lose their imaginary parts, and integers
(e.g. of quantized weights without their scales) are taken for the weights themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch

FLOATING = ("F", "BF")
"""How safetensors' names of floating-point types begin; the others are I64, U8, BOOL, C64, …"""


def wrong_type(folder: Path, parameters: Collection[str], prefix: str) -> tuple[str, str] | None:
    """(name, type) of a parameter that the files in a folder do not hold as floating-point numbers; None if all are.

    Args:
        parameters: the names of the model's parameters. Buffers may hold integers.
        prefix: the model's own prefix, which files may leave out or add.
    """
    for name, kind in _types(folder):
        if not kind.startswith(FLOATING) and {name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")} & {
            *parameters
        }:
            return name, kind
    return None


def _types(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, type as safetensors writes it) of all tensors, read without their values. Like transformers, read torch's
    own files only if there are no others."""
    from safetensors import safe_open

    files = sorted(folder.glob("model*.safetensors"))
    for path in files:
        with safe_open(path, framework="pt") as file:
            yield from ((name, file.get_slice(name).get_dtype()) for name in file.keys())  # noqa: SIM118 - no mapping
    for path in sorted(folder.glob("pytorch_model*.bin")) if not files else ():
        tensors: Any = torch.load(path, map_location="meta", weights_only=True)
        if isinstance(tensors, dict):
            yield from ((name, _name(t.dtype)) for name, t in tensors.items() if isinstance(t, torch.Tensor))


def _name(kind: torch.dtype) -> str:
    return "F" if kind.is_floating_point else str(kind).removeprefix("torch.")
