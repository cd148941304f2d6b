"""Master weights: int32 fixed point, so that sums commute, wrap, and can be undone exactly.

    weight = master · 2^exponent          each tensor has its own exponent, chosen once, when the run is founded

Tensors lie one after another, and each begins at the beginning of a tile. The rest of its last tile is padding:
records are added to it, too, but nobody reads it. The exponent leaves room for 16 times the tensor's largest weight,
so that no weight comes near the point where 32 bits wrap. `check_range` raises an error if one does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from p2ptrain.errors import LedgerError, SpecError
from p2ptrain.run import SPSAMethod
from p2ptrain.spsa.byte import MOST_QUANTA
from p2ptrain.spsa.signs import TILE

HEADROOM = 16
SMALLEST_RANGE = 0.25
"""A tensor whose largest weight is smaller gets the room of this one: adapters begin at zero and do not stay there."""
TYPICAL = 1 / 8
"""The usual |g|, as a fraction of the clip."""
LEAST_QUANTA = 8
"""Quanta by which a usual record has to move a weight. Rounding then changes the move by a sixteenth at most."""
PART_TILES = 1024
"""Tiles in a part (16 MiB). States are hashed, saved and fetched in parts."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one parameter tensor lies, and what its integers mean."""

    name: str
    shape: tuple[int, ...]
    exponent: int
    first: int
    """The tensor's first tile."""

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def tiles(self) -> int:
        return -(-self.elements // TILE)

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """This tensor in a flat vector of whole tiles, as a view."""
        start = self.first * TILE
        return flat[start : start + self.elements].view(self.shape)


@dataclass(frozen=True)
class MasterLayout:
    """The slots of all tensors. They are the same on every peer, because the run's base fixes them."""

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, tensors: Sequence[tuple[str, Sequence[int], int]]) -> MasterLayout:
        """The layout of tensors that are given in order as (name, shape, exponent)."""
        slots: list[Slot] = []
        first = 0
        for name, shape, exponent in tensors:
            slots.append(Slot(name, tuple(shape), exponent, first))
            first += slots[-1].tiles
        return cls(tuple(slots))

    @classmethod
    def for_weights(cls, tensors: Mapping[str, torch.Tensor]) -> MasterLayout:
        """The layout of a run that begins with these weights. Raises SpecError if one is not finite."""
        return cls.of([(name, tensor.shape, exponent_for(name, tensor)) for name, tensor in tensors.items()])

    @property
    def tiles(self) -> int:
        return sum(slot.tiles for slot in self.slots)

    @property
    def parts(self) -> int:
        return -(-self.tiles // PART_TILES)

    @cached_property
    def exponents(self) -> tuple[int, ...]:
        """The distinct exponents in ascending order, the columns of a table of quanta."""
        return tuple(sorted({slot.exponent for slot in self.slots}))

    def kinds(self) -> torch.Tensor:
        """For each tile, its tensor's column in a table of quanta: uint8, (tiles)."""
        columns = [self.exponents.index(slot.exponent) for slot in self.slots]
        counts = torch.tensor([slot.tiles for slot in self.slots])
        return torch.tensor(columns, dtype=torch.uint8).repeat_interleave(counts)

    def steps(self) -> torch.Tensor:
        """2^exponent for each column: float32, (columns)."""
        return torch.tensor([2.0**exponent for exponent in self.exponents], dtype=torch.float32)

    def from_weights(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The master weights that are nearest to these weights: int32, (tiles · 4096), on the CPU."""
        flat = torch.zeros(self.tiles * TILE, dtype=torch.int32)
        for slot in self.slots:
            scaled = tensors[slot.name].detach().cpu().double() * 2.0**-slot.exponent  # exact
            slot.of(flat).copy_(scaled.round().to(torch.int32))  # half to even
        return flat

    def to_weights(self, master: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weights by name as float32 tensors. Each value is rounded once."""
        return {slot.name: slot.of(master).to(torch.float32) * 2.0**slot.exponent for slot in self.slots}

    def check_range(self, master: NDArray[np.int32]) -> None:
        """Raises LedgerError if a weight is about to wrap. The learning rate is then far too high."""
        for slot in self.slots:
            start = slot.first * TILE
            values = master[start : start + slot.elements]
            if values.size and max(int(values.max()), -int(values.min())) >= 2**31 - 2**28:
                what = f"the weights {slot.name!r} have left the range of their integers"
                why = f"they have grown about {HEADROOM} times larger than they were at the beginning"
                raise LedgerError(what, why, "found a new run with a lower method.lr or method.clip")


def exponent_for(name: str, tensor: torch.Tensor) -> int:
    """The smallest exponent that leaves HEADROOM: HEADROOM · max|w| ≤ 2^31 · 2^exponent. Raises SpecError if a weight
    is not finite."""
    largest = float(tensor.detach().abs().max()) if tensor.numel() else 0.0
    if not math.isfinite(largest):
        what = f"the model's weights {name!r} are not finite"
        raise SpecError(what, f"the largest is {largest}", "use another model")
    _, power = math.frexp(max(largest, SMALLEST_RANGE) * HEADROOM)  # ≤ 2^power
    return power - 31


def check_learning_rate(method: SPSAMethod, layout: MasterLayout) -> None:
    """Check, when a run is founded, that records move weights neither too little for their integers nor too far. Raises
    SpecError if rounding would swallow a usual record, or the largest record could make a weight wrap."""
    coarse, fine = max(layout.slots, key=lambda slot: slot.exponent), min(layout.exponents)
    usual = method.lr * method.clip * TYPICAL
    quanta = usual / 2.0**coarse.exponent
    if quanta < LEAST_QUANTA:
        raise SpecError(
            f"the learning rate is too small for the weights {coarse.name!r}",
            f"a usual record moves them by lr · clip / 8 = {usual:.3g}. That is {quanta:.2g} of their steps of "
            f"2^{coarse.exponent}, and {LEAST_QUANTA} are needed",
            f"raise method.lr to {method.lr * LEAST_QUANTA / quanta:.2g}, or take the weights out of model.trainable",
        )
    largest = method.lr * method.clip / 2.0**fine
    if largest > MOST_QUANTA:
        raise SpecError(
            "the learning rate is too large",
            f"one record can move a weight by lr · clip = {method.lr * method.clip:.3g}. That is {largest:.2g} steps "
            f"of 2^{fine}, and at most {MOST_QUANTA} are allowed",
            f"divide method.lr or method.clip by {largest / MOST_QUANTA:.1f} or more",
        )
