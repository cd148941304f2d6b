"""Measuring a projected gradient: the loss on both sides of a perturbation, on the same minibatches.

    g = (L(θ + ε·z) − L(θ − ε·z)) / 2ε          (arXiv 2306.10015, definition 1, with z ∈ {−1, +1}^d)

Each side is written from the master weights in one pass. The master weights do not change, so there is nothing to
restore. (Adding and subtracting ε·z in place would leave more than a quarter of float32 weights changed.)

A working copy in bfloat16 takes half the memory, but it rounds the perturbation together with the weights. Where its
numbers lie further apart than 2ε, both sides are equal. So it is used only if its gradients agree with float32's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from p2ptrain.run import Digest, SPSAMethod
from p2ptrain.spsa.byte import encode
from p2ptrain.spsa.replica import Piece, Replica
from p2ptrain.spsa.signs import seed_key
from p2ptrain.state.logs import Log

COMPARED = 16
"""Perturbations along which the two precisions are compared."""
LEAST_AGREEMENT = 0.9
"""Correlation of the gradients from which on bfloat16 is used."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of one measurement."""

    gradient: float
    """g. It is not finite if one of the two losses is not."""
    loss: float
    """Mean of the losses on the two sides."""


class Estimator:
    """The working copy of a model's weights, made from a replica, and the loss with it.

    Args:
        tensors: the model's trainable parameters. They become views of one flat vector, the working copy.
        loss_fn: the model's mean loss on a minibatch, a scalar.
    """

    def __init__(
        self,
        method: SPSAMethod,
        replica: Replica,
        tensors: Mapping[str, torch.nn.Parameter],
        loss_fn: Callable[[Any], torch.Tensor],
    ) -> None:
        self._epsilon, self._replica, self._loss, self._tensors = method.epsilon, replica, loss_fn, tensors
        self._work: torch.Tensor
        self._make_copy(torch.float32)

    def _make_copy(self, dtype: torch.dtype) -> None:
        device = next(iter(self._tensors.values())).device
        self._work = torch.empty(self._replica.elements, dtype=dtype, device=device)
        for slot in self._replica.layout.slots:
            self._tensors[slot.name].data = slot.of(self._work)
        self.restore()

    def halve(self, batches: Sequence[Any]) -> float:
        """Measure along a few perturbations in float32 and in bfloat16, and go on in bfloat16 if the gradients agree.

        Returns:
            The correlation of the gradients. If it is below `LEAST_AGREEMENT`, or NaN, float32 stays.
        """
        wide = [self.measure(key, batches).gradient for key in range(COMPARED)]
        self._make_copy(torch.bfloat16)
        narrow = [self.measure(key, batches).gradient for key in range(COMPARED)]
        found = float(torch.corrcoef(torch.tensor([wide, narrow]))[0, 1])
        if not found >= LEAST_AGREEMENT:
            self._make_copy(torch.float32)
        return found

    def measure(self, key: int, batches: Sequence[Any]) -> Measured:
        """Measure along the perturbation of this 64-bit key. The working copy stays on the side θ − ε·z."""
        sides = [self._side(key, amplitude, batches) for amplitude in (self._epsilon, -self._epsilon)]
        return Measured((sides[0] - sides[1]) / (2 * self._epsilon), sum(sides) / 2)

    def _side(self, key: int, amplitude: float, batches: Sequence[Any]) -> float:
        self._replica.perturb(key, amplitude, self._work)
        with torch.no_grad():
            return sum(float(self._loss(batch)) for batch in batches) / len(batches)

    def restore(self) -> None:
        """Write the weights θ themselves to the working copy."""
        self._replica.weights(self._work)


class Alone:
    """One author's log in memory. It takes the steps of a peer, without a network, to measure speed or settings."""

    def __init__(self, run: Digest, log: Log, method: SPSAMethod, replica: Replica, estimator: Estimator) -> None:
        self._run, self._log, self._method = run, log, method
        self._replica, self._estimator = replica, estimator
        self._codes = bytearray()

    def step(self, batches: Sequence[Any]) -> Measured:
        """Measure `seeds_per_step` records and apply them. Returns the last measurement."""
        for _ in range(self._method.seeds_per_step):
            key = seed_key(self._run, *self._log, len(self._codes))
            found = self._estimator.measure(key, batches)
            self._codes += encode(found.gradient, self._method.clip).to_bytes(1, signed=True)
        self._replica.move({self._log: len(self._codes)}, self)
        return found

    def pieces(self, log: Log, start: int, stop: int) -> list[Piece]:
        """See `Records`."""
        return [Piece(start, bytes(self._codes[start:stop]), start)]
