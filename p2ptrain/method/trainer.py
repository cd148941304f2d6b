"""What the loop on a peer's main thread asks of a method while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from p2ptrain.method.exchange import Exchange
from p2ptrain.monitor import events
from p2ptrain.run.head import Head
from p2ptrain.swarm import Vitals

Fits = Callable[[Callable[[], object]], bool]
"""Runs a part of a step. Returns False if memory ran out; then batches are smaller, and nothing else has changed."""


class SharedOptimizer(Protocol):
    """What `StreamingDiLoCo` and `OneByteSPSA` have in common. A user wraps one of them around a model."""

    @property
    def exchange(self) -> Exchange[Any]:
        """The network side: peers, this peer's presence, what was refused."""

    @property
    def head(self) -> Head:
        """The position that this peer has applied."""

    @property
    def height(self) -> int:
        """The height, or the number of records, up to which the training weights have taken in the ledger."""

    @property
    def is_complete(self) -> bool:
        """Whether the run has reached its end."""

    @property
    def vitals(self) -> Vitals:
        """What this peer says about its training."""

    def wait_until_ready(self) -> None:
        """Return when this peer has caught up and enough peers are there to begin."""

    def pause(self) -> None:
        """Tell the others not to wait for this peer. Call `rest` meanwhile, and `resume` before the next step."""

    def rest(self, seconds: float) -> None:
        """Follow the others for `seconds`, without training."""

    def resume(self) -> None:
        """Go on from the others' present weights."""

    def close(self) -> None:
        """Say goodbye and stop exchanging."""


class Trainer(Protocol):
    """One peer's training in a run, by either method. Used on the main thread only."""

    @property
    def learning_rate(self) -> float:
        """The last step's."""

    @property
    def optimizer(self) -> SharedOptimizer:
        """What the trainer has wrapped around the task's model."""

    def step(self, index: int, fits: Fits) -> int:
        """Train one step on this peer's batches from number `index` on. Returns how many were used; 0 if the step did
        not fit into memory."""

    def evaluate(self) -> events.Evaluated | None:
        """Measure the global weights on the held-out data, if this is due and it is this peer's turn. None also if
        somebody has asked to stop meanwhile."""

    def finish(self, timeout: float) -> None:
        """After the last step: take in what has arrived, and stay until every peer is at the same head, but at most for
        `timeout` seconds."""

    def is_saving_due(self) -> bool:
        """Whether there is enough new work for a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """What only this peer knows, for torch.save; empty if the ledger holds everything."""

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
