"""What the loop on a peer's main thread asks of a method while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from p2ptrain.method.exchange import Exchange
from p2ptrain.monitor import events
from p2ptrain.run.head import Head
from p2ptrain.swarm import Vitals

Fits = Callable[[Callable[[], object]], bool]
"""Runs a part of a step. False: there was not enough memory, batches are smaller now, and nothing else has changed."""


class SharedOptimizer(Protocol):
    """What a user wraps around a model: `StreamingDiLoCo` or `OneByteSPSA`, as far as they are alike."""

    @property
    def exchange(self) -> Exchange[Any]:
        """The network side: peers, this peer's presence, what was refused."""

    @property
    def head(self) -> Head:
        """What this peer has applied."""

    @property
    def height(self) -> int:
        """The height, or the number of records, that the training weights have taken in."""

    @property
    def is_complete(self) -> bool:
        """Whether the run has come to its end."""

    @property
    def vitals(self) -> Vitals:
        """What this peer says of its training."""

    def wait_until_ready(self) -> None:
        """Return when this peer has caught up and enough peers are there to begin."""

    def pause(self) -> None:
        """Tell the others not to wait for this peer; `rest` meanwhile, and `resume` before the next step."""

    def rest(self, seconds: float) -> None:
        """Follow the others for this long, without training."""

    def resume(self) -> None:
        """Go on from where the others are now."""

    def close(self) -> None:
        """Say goodbye and stop exchanging."""


class Trainer(Protocol):
    """One peer's training in a run, by whichever method. Used on the main thread only."""

    @property
    def learning_rate(self) -> float:
        """Of the last step."""

    @property
    def optimizer(self) -> SharedOptimizer:
        """What the trainer has wrapped around the task's model."""

    def step(self, index: int, fits: Fits) -> int:
        """Train one step on this peer's batches from number `index` on.

        Returns:
            How many batches were used; 0 if the step did not fit into memory.
        """

    def evaluate(self) -> events.Evaluated | None:
        """Measure the global weights on the held-out data, if that is due and this peer's turn."""

    def finish(self, timeout: float) -> None:
        """After the last step: take in what has arrived, and stay until everyone is at the same head, at most
        `timeout` seconds."""

    def is_saving_due(self) -> bool:
        """Whether a checkpoint would keep something worth keeping."""

    def state_dict(self) -> dict[str, Any]:
        """What only this peer knows, for torch.save; empty if the ledger has everything."""

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
