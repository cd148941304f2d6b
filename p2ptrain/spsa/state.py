"""A state of a run: the master weights after so many records of each log, named by its digest.

    state digest = digest of MasterManifest(tensors, position, digests of the parts)

The parts are ranges of 1024 tiles, little-endian int32. As sums commute, a state is a function of the run's base and
of the position alone: equal positions mean equal digests, whatever order the records came in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from p2ptrain.errors import MalformedError
from p2ptrain.run import NO_DIGEST, Digest, Manifest, Record
from p2ptrain.run.record import Count, DigestField, Text
from p2ptrain.spsa.master import PART_TILES, MasterLayout
from p2ptrain.spsa.position import Position, packed, total, unpacked
from p2ptrain.spsa.signs import TILE

Integers = NDArray[np.int32]

PART_ELEMENTS = PART_TILES * TILE
MAX_MANIFEST_BYTES = 4 * 2**20
MOST_ELEMENTS = 2**40

Exponent = Annotated[int, Field(ge=-100, le=100)]
Shape = Annotated[tuple[Count, ...], Field(max_length=8)]


class MasterManifest(Record):
    """What a state consists of, by digest. A blob that can be fetched like any other."""

    kind: ClassVar[str] = "master/1"
    max_bytes: ClassVar[int] = MAX_MANIFEST_BYTES

    frozen: DigestField
    """Digest of the weights that are not trained; all zero if there are none."""
    tensors: Annotated[tuple[tuple[Text, Shape, Exponent], ...], Field(min_length=1, max_length=100_000)]
    position: Annotated[bytes, Field(max_length=MAX_MANIFEST_BYTES)]
    """Packed: see `position`."""
    parts: Annotated[tuple[DigestField, ...], Field(min_length=1, max_length=1_000_000)]

    def layout(self) -> MasterLayout:
        """Raises MalformedError if the parts can't be those of the tensors."""
        if sum(int(np.prod(shape, dtype=object)) for _, shape, _ in self.tensors) > MOST_ELEMENTS:
            raise MalformedError("a state is larger than any model")
        layout = MasterLayout.of(self.tensors)
        if len(self.parts) != layout.parts:
            raise MalformedError("a state has the wrong number of parts", f"{len(self.parts)}, not {layout.parts}")
        return layout


@dataclass(frozen=True)
class MasterState:
    """Master weights that nobody may change any more, and where in the logs they stand."""

    layout: MasterLayout
    position: Position
    master: Integers = field(repr=False)
    """int32, (tiles · 4096)."""
    frozen: Digest = NO_DIGEST

    def __post_init__(self) -> None:
        self.master.flags.writeable = False

    @property
    def records(self) -> int:
        return total(self.position)

    @cached_property
    def parts(self) -> tuple[tuple[Manifest, Integers], ...]:
        """Each part's chunk digests and numbers."""
        return tuple((Manifest.of(part.data.cast("B")), part) for part in _cut(self.master))

    @cached_property
    def manifest(self) -> MasterManifest:
        return MasterManifest(
            frozen=self.frozen,
            tensors=tuple((slot.name, slot.shape, slot.exponent) for slot in self.layout.slots),
            position=packed(self.position),
            parts=tuple(manifest.digest for manifest, _ in self.parts),
        )

    @property
    def digest(self) -> Digest:
        return self.manifest.digest

    @classmethod
    def assemble(cls, manifest: MasterManifest, part: Callable[[Digest], Integers]) -> MasterState:
        """From parts that are found by digest.

        Raises:
            MalformedError: they do not make up a state.
        """
        layout = manifest.layout()
        parts = [part(digest) for digest in manifest.parts]
        sizes = [min(PART_ELEMENTS, layout.tiles * TILE - at) for at in range(0, layout.tiles * TILE, PART_ELEMENTS)]
        if [found.size for found in parts] != sizes:
            raise MalformedError("a state's parts have the wrong lengths")
        return cls(layout, unpacked(manifest.position), np.concatenate(parts), manifest.frozen)


def _cut(master: Integers) -> Iterator[Integers]:
    for at in range(0, len(master), PART_ELEMENTS):
        yield master[at : at + PART_ELEMENTS]
