"""What a user wraps around a model and its loss: one-byte SPSA in their own loop.

    spsa = OneByteSPSA(model, loss_fn, run)
    for batch in batches:
        loss = spsa.step(batch)

`step` applies what others have measured, measures the loss L on both sides of a perturbation, and sends the projected
gradient g as one byte (arXiv 2306.10015, algorithm 1):

    g = (L(θ + ε·z) − L(θ − ε·z)) / 2ε      z = signs(run, author, session, index) ∈ {−1, +1}^d
    θ ← θ − lr · ĝ · z                      ĝ is g rounded to one byte; on every peer, in whatever order bytes arrive

There is no backward pass, and no peer waits for another one. `estimator` says how g is measured, `byte` how it is
rounded, and `master` why the order does not matter.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import torch

from p2ptrain.errors import TrainingError
from p2ptrain.method import Tell
from p2ptrain.parameters import (
    Buffers,
    check_float32,
    check_shareable,
    device_name,
    digest_of_frozen,
    shared_parameters,
)
from p2ptrain.run import NO_DIGEST, Digest
from p2ptrain.run.head import Head
from p2ptrain.spsa.byte import encode
from p2ptrain.spsa.estimator import LEAST_AGREEMENT, Estimator
from p2ptrain.spsa.exchange import Exchange
from p2ptrain.spsa.master import MasterLayout, check_learning_rate
from p2ptrain.spsa.position import distance, total, towards
from p2ptrain.spsa.replica import Replica
from p2ptrain.spsa.signs import seed_key
from p2ptrain.spsa.state import MasterState
from p2ptrain.state.logs import Log
from p2ptrain.state.run import Run
from p2ptrain.swarm import Vitals, monotonic

RATE_SMOOTHING = 0.1
"""Weight of the newest value in moving averages of times."""
LEAST_TIMED = 16
"""Fewer records at once are not timed."""
LEAST_APPLIED = 256
"""A step applies up to so many records of others, however long that takes."""

log = logging.getLogger(__name__)


class OneByteSPSA:
    """Fine-tunes `model` together with the other peers of `run`.

    Founds the run, joins it or resumes it, as the `Run` says, and loads the swarm's weights into the model. Sets the
    model to evaluation mode, because dropout would differ between the two sides of a perturbation. Call
    `wait_until_ready` before the first step. Between two steps the model holds the weights of one side of the last
    perturbation. `global_parameters`, `finish` and `close` restore θ.

    Args:
        model: its trainable parameters are shared; they are float32. Every peer must build the same names, shapes and
            untrained weights. Buffers are not shared, so the loss must not change them: see `check_shareable` and
            `Buffers`.
        loss_fn: the model's mean loss on a minibatch, a scalar.
        held_out: digest of this peer's held-out text, for the genesis and for comparing evaluations.
        bf16: keep the working copy in bfloat16, which takes half the memory, if its gradients agree with float32's on
            the first minibatches. Otherwise warn and keep float32. The shared weights are the same integers in both.
        on_event: called on the network thread with a name ("mark", "cut", "diverged", "progress", "replay") and facts.
        stop: asked whenever this waits for others. Once it returns True, nothing waits any more.

    Raises:
        UsageError: peers can't share this model, e.g. a parameter is not float32 or a BatchNorm keeps statistics.
        P2PTrainError: nobody to join, another model, a learning rate that rounding would swallow, …
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss_fn: Callable[[Any], torch.Tensor],
        run: Run,
        *,
        held_out: Digest = NO_DIGEST,
        bf16: bool = False,
        on_event: Tell = lambda name, facts: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        check_shareable(model)
        check_float32(model, "call model.float() first; with bf16=True the working copy is bfloat16, after a check")
        self._buffers = Buffers(model)
        self._run, self._method, self._stop, self._tell = run, run.spec.spsa, stop, on_event
        self._tensors = shared_parameters(model)
        device = next(iter(self._tensors.values())).device
        model.eval()
        layout = MasterLayout.for_weights(self._tensors)
        if run.founding:
            check_learning_rate(self._method, layout)
        base = MasterState(layout, {}, layout.from_weights(self._tensors).numpy(), digest_of_frozen(model))
        run.establish(base.digest, held_out)
        vitals = Vitals("joining", device=device_name(device), held_out=held_out)
        self._clock, self._may_halve = 0, bf16
        self._seconds_per_record = self._seconds_per_step = 0.0
        self._saved: Digest | None = None
        """Digest of the state that `save` has kept; None once the weights have moved on."""
        self.not_finite = 0
        """Number of measurements that gave no finite g. They are sent as code 0."""
        self._exchange = Exchange(run, vitals, on_event, stop)
        try:
            state = self._exchange.start(base) or base
            self._replica = Replica(run.id, self._method, state, device)
            self._estimator = Estimator(self._method, self._replica, self._tensors, loss_fn)
        except BaseException:
            self._exchange.close()
            raise

    def wait_until_ready(self) -> None:
        """Return when this peer has caught up with the others, and training has begun or `swarm.min_peers` are ready.

        Raises:
            P2PTrainError: the network or the disk has failed for good.
        """
        self._exchange.wait_or_stop(lambda view: view.caught_up)
        self._move_to(self._exchange.standing())
        self._exchange.enter("ready")
        least = self._run.spec.swarm.min_peers
        self._exchange.wait_or_stop(lambda view: view.records > 0 or self._exchange.peers_ready() >= least)
        self._exchange.enter("training")

    # The loop ------------------------------------------------------------------------------------------------------

    def step(self, *batches: Any, tokens: int = 0) -> float:
        """Apply the records that have arrived, then measure `method.seeds_per_step` records of this peer's own.

        Args:
            batches: `method.batches_per_seed` minibatches, on each of which the loss is measured.
            tokens: number of tokens that this step computes, for the tables.

        Returns:
            The mean loss over both sides of all perturbations. It need not be finite.

        Raises:
            ValueError: the number of minibatches is not `method.batches_per_seed`.
            TrainingError: an owner has revoked this peer.
            UsageError: the loss function has changed a buffer of the model.
            P2PTrainError: the network or the disk has failed for good.
        """
        self._run.swarm.check()
        if self.vitals.phase != "training":
            self.wait_until_ready()
        if len(batches) != self._method.batches_per_seed:
            raise ValueError(f"a step takes {self._method.batches_per_seed} minibatches here, not {len(batches)}")
        self._apply_news()
        if self._may_halve:
            self._halve(batches)
        began = monotonic()
        losses = [self._measure(batches) for _ in range(self._method.seeds_per_step)]
        self._buffers.check()
        self._seconds_per_step = _smooth(self._seconds_per_step, monotonic() - began)
        loss = sum(losses) / len(losses)
        rate = tokens / self._seconds_per_step if self._seconds_per_step else 0.0
        self._exchange.count_step(tokens, loss, rate)
        return loss

    def _halve(self, batches: tuple[Any, ...]) -> None:
        self._may_halve = False
        agreement = self._estimator.halve(batches)
        if agreement >= LEAST_AGREEMENT:
            log.info("the working copy is bfloat16: the correlation of its gradients with float32's is %.3f", agreement)
        else:
            told = "the working copy stays float32: ε = %g is too small for bfloat16 (correlation %.2f, needed %g)"
            log.warning(told, self._method.epsilon, agreement, LEAST_AGREEMENT)

    def _measure(self, batches: tuple[Any, ...]) -> float:
        """Measure and send one record. Returns the loss."""
        key = seed_key(self._run.id, *self._exchange.log, self._exchange.measured)
        found = self._estimator.measure(key, batches)
        self.not_finite += not math.isfinite(found.gradient)
        self._exchange.say(encode(found.gradient, self._method.clip), self._clock)
        return found.loss

    def _apply_news(self) -> None:
        """Apply records that have arrived, for about as long as a measurement takes."""
        if self._exchange.view.revoked:
            self.halt()
            raise TrainingError(
                "an owner of the run has revoked this peer",
                "all peers take back what it has measured",
                "ask an owner why, or join with another identity",
            )
        self._exchange.flush_if_due()
        most = LEAST_APPLIED
        if self._seconds_per_record:
            most = max(most, int(self._seconds_per_step / self._seconds_per_record))
        if (due := self._exchange.due) is not None:
            self._exchange.flush()
            self._exchange.reach(due, self._replica.state())
        self._move_to(towards(self._replica.position, self._exchange.standing(), most))
        self._clock = max(self._clock, total(self._replica.position))

    def _move_to(self, target: Mapping[Log, int]) -> None:
        before, began = self._replica.position, monotonic()
        told = began

        def tell(done: int, in_all: int) -> None:
            nonlocal told
            if monotonic() - told >= 1.0:
                told = monotonic()
                self._tell("replay", {"here": done, "in_all": in_all, "seconds": told - began})
                self._stop()  # in a peer, this also prints the news

        self._replica.move(target, self._exchange, tell)
        moved = distance(before, target)
        if moved:
            self._saved = None
        if moved >= LEAST_TIMED:
            self._seconds_per_record = _smooth(self._seconds_per_record, (monotonic() - began) / moved)

    # Pausing -------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Between two steps: send what is left, and tell the others not to wait for this peer, which still serves them.
        Call `rest` meanwhile, and `resume` before the next step."""
        self._exchange.flush()
        self._exchange.vitals = replace(self.vitals, tokens_per_second=0.0)
        self._exchange.enter("paused")

    def rest(self, seconds: float) -> None:
        """Apply what the others have measured. Returns after `seconds`, or when the run is complete. Raises
        TrainingError or another P2PTrainError, as `step` does."""
        self._run.swarm.check()
        self._apply_news()
        self._exchange.wait(lambda view: self.is_complete, seconds)

    def resume(self) -> None:
        """Catch up, and go on from the others' weights."""
        self.wait_until_ready()

    # Looking -------------------------------------------------------------------------------------------------------

    @property
    def exchange(self) -> Exchange:
        """The network side: peers, this peer's presence, the view of the logs."""
        return self._exchange

    @property
    def records(self) -> int:
        """Number of records, of all peers, that are in the weights."""
        return total(self._replica.position)

    height = records
    """The name that both methods share."""

    @property
    def head(self) -> Head:
        """The number of records in the weights, the digest of those that count, and the state: the one that `save` has
        kept, else the newest one whose digest this peer has computed."""
        state = self._exchange.own_presence.state if self._saved is None else self._saved
        return Head(self.records, self._exchange.view.digest, state)

    @property
    def is_complete(self) -> bool:
        """Whether the run has `method.total_records` records."""
        last = self._method.total_records
        return last is not None and total(self._exchange.standing()) >= last

    @property
    def vitals(self) -> Vitals:
        """What this peer says about its training."""
        return self._exchange.vitals

    def global_parameters(self) -> dict[str, torch.Tensor]:
        """The weights θ by the bare model's parameter names, on the training device. They are the model's own tensors,
        float32 or bfloat16, which this restores."""
        self._estimator.restore()
        return {name: tensor.detach() for name, tensor in self._tensors.items()}

    def report_evaluation(self, records: int, loss: float) -> None:
        """Tell the others the held-out loss of the weights after `records` records."""
        told = float(loss) if math.isfinite(loss) else None
        self._exchange.vitals = replace(self.vitals, eval_height=int(records), eval_loss=told)

    # Saving and leaving --------------------------------------------------------------------------------------------

    def finish(self, timeout: float) -> bool:
        """After the last step: send what is left, and stay until the same records count for every peer. False: they did
        not within `timeout` seconds."""
        self._exchange.flush()  # before others hear that there is nothing more to come
        self._exchange.enter("complete" if self.is_complete else self.vitals.phase)
        agreed = self._exchange.wait(lambda view: self._exchange.everyone_agrees(), timeout)
        self._move_to(self._exchange.standing())
        self._estimator.restore()
        return agreed

    def save(self) -> MasterState:
        """Keep the weights as a snapshot for the next start, and return it. See `Snapshots.save` for errors."""
        self._exchange.flush()
        state = self._replica.state()
        self._exchange.save(state)
        self._saved = state.digest
        return state

    def halt(self) -> None:
        """Tell the others not to wait for this peer any more."""
        self._exchange.enter("halted")

    def close(self) -> None:
        """Send what is left, say goodbye and stop exchanging. The `Run` stays open; close it, too."""
        self._estimator.restore()
        try:
            self._exchange.flush()
        finally:
            self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _smooth(before: float, now: float) -> float:
    return before + RATE_SMOOTHING * (now - before) if before else now
