"""Which of the P fragments each of a model's parameters belongs to.

    tensors of layer l            fragment l mod P: the strided pattern of arXiv 2501.18512, section 2.1
    other matrices, of R ≥ P rows  rows ⌊R·p/P⌋ … ⌊R·(p+1)/P⌋ − 1 in fragment p (embeddings, head)
    the rest, largest first        the fragment that is smallest so far

Every peer computes the same layout from the names and shapes alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

from p2ptrain.errors import SpecError
from p2ptrain.run import NO_DIGEST, Digest, digest_of

PART = 2**20
"""Elements of a part of a tensor, about."""
_LAYER = re.compile(r"(?:.*?\.)?\d+\.")
"""A layer's tensors share the beginning of their name up to its number: model.layers.3."""


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """A range of rows of one parameter tensor, mostly all of them, inside its fragment's flat vector."""

    name: str
    shape: tuple[int, ...]
    """The whole tensor's."""
    start: int
    stop: int

    @property
    def elements(self) -> int:
        return (self.stop - self.start) * prod(self.shape[1:])

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """These rows of the tensor; they share its memory."""
        return tensor[self.start : self.stop] if self.shape else tensor.view(1)


@dataclass(frozen=True)
class Layout:
    """The tensors of each fragment, in the order in which their elements lie in the fragment's vector."""

    fragments: tuple[tuple[TensorSlot, ...], ...]
    frozen: Digest = NO_DIGEST
    """Names the weights that are not trained and lie in no fragment; all zero if there are none."""

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]], count: int, frozen: Digest = NO_DIGEST) -> Layout:
        """Distribute tensors (name → shape, in the model's own order) over `count` fragments.

        Raises:
            SpecError: a fragment would be empty.
        """
        homes: list[list[TensorSlot]] = [[] for _ in range(count)]
        sizes = [0] * count
        layers: dict[str, int] = {}
        rest: list[TensorSlot] = []

        def put(slot: TensorSlot, home: int) -> None:
            homes[home].append(slot)
            sizes[home] += slot.elements

        for name, dimensions in shapes.items():
            shape = tuple(dimensions)
            rows = shape[0] if shape else 1
            whole = TensorSlot(name, shape, 0, rows)
            if match := _LAYER.match(name):
                put(whole, layers.setdefault(match[0], len(layers)) % count)
            elif len(shape) >= 2 and rows >= count:
                for part in range(count):
                    put(TensorSlot(name, shape, rows * part // count, rows * (part + 1) // count), part)
            else:
                rest.append(whole)
        for slot in sorted(rest, key=lambda slot: -slot.elements):  # stable: equal sizes keep the model's order
            put(slot, sizes.index(min(sizes)))
        if not all(sizes):
            raise SpecError(
                f"a model of {len(shapes)} tensors can't be cut into {count} fragments",
                f"{sizes.count(0)} of them would be empty",
                "set method.fragments to at most the number of the model's layers",
            )
        return cls(tuple(map(tuple, homes)), frozen)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each fragment."""
        return tuple(sum(slot.elements for slot in fragment) for fragment in self.fragments)

    @cached_property
    def digest(self) -> Digest:
        """Names the layout. Models of equal layouts and equal frozen weights can exchange fragments."""
        parts = [[(slot.name, slot.shape, slot.start, slot.stop) for slot in part] for part in self.fragments]
        return digest_of(repr(parts).encode())

    def gather(self, tensors: Mapping[str, torch.Tensor], fragment: int) -> torch.Tensor:
        """Copy a fragment's tensors into one new 1-D float32 vector on their device."""
        parts = [slot.of(tensors[slot.name].detach()).reshape(-1).float() for slot in self.fragments[fragment]]
        return torch.cat(parts) if len(parts) > 1 else parts[0].clone()

    def scatter(self, vector: torch.Tensor, tensors: Mapping[str, torch.Tensor], fragment: int) -> None:
        """Copy a fragment's vector (1-D) into the named tensors, converted to their dtypes."""
        for span, part in self.parts(tensors, fragment):
            part.copy_(vector[span].view(part.shape))

    def parts(self, tensors: Mapping[str, torch.Tensor], fragment: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """A fragment's tensors in pieces of some rows, and where each lies in the fragment's vector. They share the
        tensors' memory; whole tensors would need temporary results of their size."""
        start = 0
        for slot in self.fragments[fragment]:
            tensor = slot.of(tensors[slot.name].detach())
            rows = max(1, len(tensor) * PART // max(1, slot.elements))
            for part in torch.split(tensor, rows):
                yield slice(start, start + part.numel()), part
                start += part.numel()

    def assemble(self, vectors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """New float32 tensors by name from the vectors of all fragments, on the first vector's device."""
        shapes = {slot.name: slot.shape for part in self.fragments for slot in part}
        tensors = {name: torch.empty(shape, device=vectors[0].device) for name, shape in shapes.items()}
        for index, vector in enumerate(vectors):
            self.scatter(vector, tensors, index)
        return tensors
