"""The global state of a run at one height: θ and momentum of every fragment, immutable and named by its digest.

    state digest = digest of StateManifest(height, commit, weight, layout, digests of θ_f and m_f for each fragment f,
                                           digest of the weights that are not trained)

The manifest names the commit that produced the state, so equal heads mean equal state digests. The next commit names
the state before it, so it vouches for the snapshot that a newcomer fetches. Applying a commit makes a new `GlobalState`
that shares every array except the updated fragment's, so keeping old states costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from p2ptrain.diloco.codecs import Vector
from p2ptrain.run import NO_DIGEST, Digest, Record
from p2ptrain.run.digest import Manifest
from p2ptrain.run.head import Head
from p2ptrain.run.record import Count, DigestField


class StateManifest(Record):
    """What a state consists of, by digest. It can be fetched like any other blob."""

    kind: ClassVar[str] = "state/1"
    max_bytes: ClassVar[int] = 256 * 1024  # 1024 fragments take 69 KiB

    height: Count
    commit: DigestField
    weight: Count
    layout: DigestField
    vectors: Annotated[tuple[tuple[DigestField, DigestField], ...], Field(min_length=1, max_length=1024)]
    """(θ_f, m_f) for each fragment f, each a blob of little-endian float32."""
    frozen: DigestField
    """Digest of the weights that are not trained; all zero if there are none."""


@dataclass(frozen=True)
class HashedVector:
    """A 1-D float32 vector that is read-only from now on, and the manifest of its bytes."""

    values: Vector
    known: Manifest | None = None
    """Its manifest, if it is known already."""
    _shared: Vector = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shared", self.values.view())
        self.values.flags.writeable = False

    def on(self, device: torch.device) -> torch.Tensor:
        """The vector for torch, on a device. On a CPU it may share this memory: never write to it."""
        if self._shared.flags.writeable:  # else torch would warn
            return torch.from_numpy(self._shared).to(device)
        return torch.tensor(self.values, device=device)

    @property
    def raw(self) -> memoryview:
        return self.values.data.cast("B")

    @cached_property
    def manifest(self) -> Manifest:
        return self.known or Manifest.of(self.raw)

    @cached_property
    def digest(self) -> Digest:
        return self.manifest.digest


@dataclass(frozen=True)
class Fragment:
    """One fragment's global parameters θ and its outer momentum m, of equal length."""

    theta: HashedVector
    momentum: HashedVector

    @classmethod
    def initial(cls, theta: Vector) -> Fragment:
        return cls(HashedVector(theta), HashedVector(np.zeros_like(theta)))


@dataclass(frozen=True)
class GlobalState:
    """θ and m of all fragments after the commit of this height."""

    height: int
    commit: Digest
    weight: int
    """Capped tokens of all contributions that counted since genesis. The heavier branch of a fork wins."""
    layout: Digest
    fragments: tuple[Fragment, ...]
    frozen: Digest = NO_DIGEST

    @classmethod
    def initial(cls, layout: Digest, thetas: Sequence[Vector], frozen: Digest = NO_DIGEST) -> GlobalState:
        """The state of height 0: the base snapshot, with zero momentum."""
        return cls(0, NO_DIGEST, 0, layout, tuple(Fragment.initial(theta) for theta in thetas), frozen)

    def after(self, commit: Digest, index: int, fragment: Fragment, weight: int) -> GlobalState:
        """The next height's state, with `fragment` at `index`. Every other fragment is shared with this state."""
        fragments = (*self.fragments[:index], fragment, *self.fragments[index + 1 :])
        return replace(self, height=self.height + 1, commit=commit, weight=self.weight + weight, fragments=fragments)

    @property
    def vectors(self) -> list[HashedVector]:
        """θ and m of each fragment, in the manifest's order."""
        return [vector for part in self.fragments for vector in (part.theta, part.momentum)]

    @cached_property
    def manifest(self) -> StateManifest:
        vectors = tuple((part.theta.digest, part.momentum.digest) for part in self.fragments)
        names = {"commit": self.commit, "layout": self.layout, "frozen": self.frozen}
        return StateManifest(height=self.height, weight=self.weight, vectors=vectors, **names)

    @property
    def head(self) -> Head:
        return Head(self.height, self.commit, self.digest, self.weight)

    @property
    def digest(self) -> Digest:
        return self.manifest.digest
