"""A state of a run: the master weights at a position, named by their digest.

    state digest = digest of MasterManifest(frozen, tensors, position, digests of the parts)

A part is a range of 1024 tiles, in little-endian int32. Sums commute, so a state depends only on the run's base and on
the position: equal positions mean equal digests, whatever order the records came in.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """Names everything that a state consists of. Peers fetch it like any other blob."""

    kind: ClassVar[str] = "master/1"
    max_bytes: ClassVar[int] = MAX_MANIFEST_BYTES

    frozen: DigestField
    """Digest of the weights that are not trained; zeros if there are none."""
    tensors: Annotated[tuple[tuple[Text, Shape, Exponent], ...], Field(min_length=1, max_length=100_000)]
    """(name, shape, exponent) of each trained tensor."""
    position: Annotated[bytes, Field(max_length=MAX_MANIFEST_BYTES)]
    """See `position.packed`."""
    parts: Annotated[tuple[DigestField, ...], Field(min_length=1, max_length=1_000_000)]

    def layout(self) -> MasterLayout:
        """The layout of the tensors.

        Raises:
            MalformedError: the tensors are too large, or the number of parts does not fit them.
        """
        if sum(int(np.prod(shape, dtype=object)) for _, shape, _ in self.tensors) > MOST_ELEMENTS:
            raise MalformedError("a state is larger than any model")
        layout = MasterLayout.of(self.tensors)
        if len(self.parts) != layout.parts:
            raise MalformedError("a state has the wrong number of parts", f"{len(self.parts)}, not {layout.parts}")
        return layout


@dataclass(frozen=True)
class MasterState:
    """Master weights at a position. They are read-only."""

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
        """The chunk digests and the numbers of each part."""
        split = (self.master[at : at + PART_ELEMENTS] for at in range(0, len(self.master), PART_ELEMENTS))
        return tuple((Manifest.of(part.data.cast("B")), part) for part in split)

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
        """The state that a manifest describes. `part` finds a part by its digest: int32, (elements).

        Raises:
            MalformedError: the parts do not make up a state.
        """
        layout = manifest.layout()
        parts = [part(digest) for digest in manifest.parts]
        sizes = [min(PART_ELEMENTS, layout.tiles * TILE - at) for at in range(0, layout.tiles * TILE, PART_ELEMENTS)]
        if [found.size for found in parts] != sizes:
            raise MalformedError("a state's parts have the wrong lengths")
        return cls(layout, unpacked(manifest.position), np.concatenate(parts), manifest.frozen)
