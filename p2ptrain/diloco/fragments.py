"""How a model's parameters are dealt out to fragments.

Layers go round: layer l belongs to fragment l mod P (the strided pattern of arXiv 2501.18512, section 2.1). What is
outside the layers (embeddings, head, norms) is dealt out to balance bytes: the largest first, each to the fragment
that is smallest so far. Every peer computes the same layout from the names and shapes alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

from p2ptrain.errors import SpecError
from p2ptrain.run import Digest, digest_of

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """One parameter tensor inside its fragment's flat vector."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The tensors of each fragment, in the order in which their elements lie in the fragment's vector."""

    fragments: tuple[tuple[TensorSlot, ...], ...]

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]], count: int) -> Layout:
        """Deal tensors (name → shape, in the model's own order) out to `count` fragments.

        Raises:
            SpecError: the model has too few parts for so many fragments.
        """
        slots = [TensorSlot(name, tuple(shape)) for name, shape in shapes.items()]
        homes: dict[str, int] = {}
        sizes = [0] * count
        for slot in slots:
            if layer := _LAYER.search(slot.name):
                homes[slot.name] = int(layer[1]) % count
                sizes[homes[slot.name]] += slot.elements
        others = [slot for slot in slots if slot.name not in homes]
        for slot in sorted(others, key=lambda slot: -slot.elements):  # stable: equal sizes keep the model's order
            homes[slot.name] = sizes.index(min(sizes))
            sizes[homes[slot.name]] += slot.elements
        if not all(sizes):
            raise SpecError(
                f"a model of {len(slots)} tensors can't be cut into {count} fragments",
                f"{sizes.count(0)} of them would be empty",
                "set method.fragments to at most the number of the model's layers",
            )
        return cls(tuple(tuple(slot for slot in slots if homes[slot.name] == f) for f in range(count)))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each fragment."""
        return tuple(sum(slot.elements for slot in fragment) for fragment in self.fragments)

    @cached_property
    def digest(self) -> Digest:
        """Names the layout: two models with the same one can exchange fragments."""
        return digest_of(repr([[(slot.name, slot.shape) for slot in part] for part in self.fragments]).encode())

    def gather(self, tensors: Mapping[str, torch.Tensor], fragment: int) -> torch.Tensor:
        """Copy a fragment's tensors into one new float32 vector on their device."""
        parts = [tensors[slot.name].detach().reshape(-1).float() for slot in self.fragments[fragment]]
        return torch.cat(parts) if len(parts) > 1 else parts[0].clone()

    def views(self, vector: torch.Tensor, fragment: int) -> dict[str, torch.Tensor]:
        """A fragment's vector seen as its named tensors; they share its memory."""
        slots = self.fragments[fragment]
        pieces = torch.split(vector, [slot.elements for slot in slots])
        return {slot.name: piece.view(slot.shape) for slot, piece in zip(slots, pieces, strict=True)}

    def select(self, tensors: Mapping[str, torch.Tensor], fragment: int) -> dict[str, torch.Tensor]:
        """Those of the named tensors that belong to a fragment."""
        return {slot.name: tensors[slot.name] for slot in self.fragments[fragment]}

    def scatter(self, vector: torch.Tensor, tensors: Mapping[str, torch.Tensor], fragment: int) -> None:
        """Copy a fragment's vector into the named tensors, in their own precision."""
        with torch.no_grad():
            for name, piece in self.views(vector, fragment).items():
                tensors[name].copy_(piece)
