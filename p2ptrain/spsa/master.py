"""Master weights: int32 fixed point in whole tiles, so that sums commute, wrap, and are undone exactly.

    weight = master · 2^exponent          the exponent is a tensor's own, chosen once, when the run is founded

Tensors lie one after another, each from the beginning of a tile; what is left of its last tile counts for nothing but
is added to like the rest. A tensor's exponent leaves room for 16 times its largest weight, so that no run comes near
the point where 32 bits wrap; `check_range` says so if one does.
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
"""What a tensor's largest weight counts as at least: adapters begin at zero and do not stay there."""
TYPICAL = 1 / 8
"""A projected gradient that is usual, as a fraction of the clip."""
LEAST_QUANTA = 8
"""That a usual record has to move a weight by: rounding then takes at most a sixteenth of it."""
PART_TILES = 1024
"""Tiles of a part, 16 MiB: the unit in which states are hashed, saved and fetched."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One parameter tensor's place."""

    name: str
    shape: tuple[int, ...]
    exponent: int
    first: int
    """Its first tile."""

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def tiles(self) -> int:
        return -(-self.elements // TILE)

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """This tensor's part of a flat vector of whole tiles, sharing its memory."""
        start = self.first * TILE
        return flat[start : start + self.elements].view(self.shape)


@dataclass(frozen=True)
class MasterLayout:
    """Where each tensor lies and what its integers mean; the same on every peer, from the run's base on."""

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, tensors: Sequence[tuple[str, Sequence[int], int]]) -> MasterLayout:
        """From (name, shape, exponent) of each tensor in its order."""
        slots: list[Slot] = []
        first = 0
        for name, shape, exponent in tensors:
            slots.append(Slot(name, tuple(shape), exponent, first))
            first += slots[-1].tiles
        return cls(tuple(slots))

    @classmethod
    def for_weights(cls, tensors: Mapping[str, torch.Tensor]) -> MasterLayout:
        """For a run that is being founded: exponents from the weights that it begins with.

        Raises:
            SpecError: a weight is not finite.
        """
        return cls.of([(name, tensor.shape, exponent_for(name, tensor)) for name, tensor in tensors.items()])

    @property
    def tiles(self) -> int:
        return sum(slot.tiles for slot in self.slots)

    @property
    def parts(self) -> int:
        return -(-self.tiles // PART_TILES)

    @cached_property
    def exponents(self) -> tuple[int, ...]:
        """The distinct ones, in order: the columns of a table of quanta."""
        return tuple(sorted({slot.exponent for slot in self.slots}))

    def kinds(self) -> torch.Tensor:
        """Each tile's column in that table, uint8."""
        columns = [self.exponents.index(slot.exponent) for slot in self.slots]
        counts = torch.tensor([slot.tiles for slot in self.slots])
        return torch.tensor(columns, dtype=torch.uint8).repeat_interleave(counts)

    def steps(self) -> torch.Tensor:
        """2^exponent for each column, float32."""
        return torch.tensor([2.0**exponent for exponent in self.exponents], dtype=torch.float32)

    def from_weights(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The master weights nearest to these, int32, (tiles · 4096), on the host."""
        flat = torch.zeros(self.tiles * TILE, dtype=torch.int32)
        for slot in self.slots:
            scaled = tensors[slot.name].detach().cpu().double() * 2.0**-slot.exponent  # exact
            slot.of(flat).copy_(scaled.round().to(torch.int32))  # half to even
        return flat

    def to_weights(self, master: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weights as float32 tensors, each value rounded once."""
        return {slot.name: slot.of(master).to(torch.float32) * 2.0**slot.exponent for slot in self.slots}

    def check_range(self, master: NDArray[np.int32]) -> None:
        """Raises LedgerError if a weight has used up its tensor's room: the learning rate must be far too high."""
        for slot in self.slots:
            start = slot.first * TILE
            values = master[start : start + slot.elements]
            if values.size and max(int(values.max()), -int(values.min())) >= 2**31 - 2**28:
                raise LedgerError(
                    f"the weights {slot.name!r} have left the range of their integers",
                    f"more than {HEADROOM} times their size at the beginning",
                    "found a new run with a lower learning rate or clip",
                )


def exponent_for(name: str, tensor: torch.Tensor) -> int:
    """The exponent that leaves HEADROOM: HEADROOM · max|w| ≤ 2^31 · 2^exponent."""
    largest = float(tensor.detach().abs().max()) if tensor.numel() else 0.0
    if not math.isfinite(largest):
        raise SpecError(
            f"the model's weights {name!r} are not finite", f"the largest is {largest}", "use another model"
        )
    _, power = math.frexp(max(largest, SMALLEST_RANGE) * HEADROOM)  # ≤ 2^power
    return power - 31


def check_learning_rate(method: SPSAMethod, layout: MasterLayout) -> None:
    """Whether records move the weights by a sensible number of quanta; asked when a run is founded.

    Raises:
        SpecError: a usual record would be lost in rounding, or the largest would come near to wrapping.
    """
    coarse, fine = max(layout.slots, key=lambda slot: slot.exponent), min(layout.exponents)
    usual = method.lr * method.clip * TYPICAL
    quanta = usual / 2.0**coarse.exponent
    if quanta < LEAST_QUANTA:
        raise SpecError(
            f"the learning rate is too small for the weights {coarse.name!r}",
            f"a usual record (an eighth of the clip) moves them by lr · clip / 8 = {usual:.3g}, which is {quanta:.2g} "
            f"of their steps of 2^{coarse.exponent}; it has to be {LEAST_QUANTA}",
            f"raise method.lr to {method.lr * LEAST_QUANTA / quanta:.2g}, or leave them out of model.trainable",
        )
    largest = method.lr * method.clip / 2.0**fine
    if largest > MOST_QUANTA:
        raise SpecError(
            "the learning rate is too large",
            f"one record may move a weight by lr · clip = {method.lr * method.clip:.3g}, which is {largest:.2g} steps "
            f"of 2^{fine}; at most {MOST_QUANTA} are allowed",
            f"lower method.lr or method.clip {largest / MOST_QUANTA:.1f} times or more",
        )
