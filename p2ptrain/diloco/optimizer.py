"""Streaming DiLoCo for a user's own training loop, wrapped around a model and its optimizer.

    diloco = StreamingDiLoCo(model, optimizer, run)
    for batch in batches:
        loss = …; loss.backward(); optimizer.step(); optimizer.zero_grad()
        diloco.step(tokens=batch.numel(), loss=loss.item())

    Δ_f = θ_f − local_f + e_f              pseudo-gradient of fragment f (arXiv 2501.18512, algorithm 2)
    e_f ← Δ_f − decode(encode(Δ_f))        error feedback, once a commit lists the contribution

`step` counts, merges the commits that have arrived, and contributes one fragment every H/P steps. With overlap = "free"
it never waits for the network. With overlap = n it merges each round n steps after contributing, and waits if it must.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import torch

from p2ptrain.diloco.codecs import CODECS, NonFiniteError
from p2ptrain.diloco.exchange import Exchange
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.lanes import Lanes, Pending
from p2ptrain.diloco.merge import merge
from p2ptrain.diloco.schedule import fragment_of, global_progress, learning_rate
from p2ptrain.diloco.state import GlobalState
from p2ptrain.diloco.view import View
from p2ptrain.errors import TrainingError
from p2ptrain.method import Tell
from p2ptrain.parameters import Buffers, check_shareable, device_name, digest_of_frozen, shared_parameters
from p2ptrain.run import NO_DIGEST, Digest, short
from p2ptrain.run.head import Head
from p2ptrain.state.run import Run
from p2ptrain.swarm import Vitals, monotonic

RATE_SECONDS = 5.0

log = logging.getLogger(__name__)


class StreamingDiLoCo:
    """Train `model` together with the other peers of `run`.

    The constructor founds, joins or resumes the run, as the `Run` says, and loads the swarm's weights into the model.
    Call `wait_until_ready` before the first step.

    Args:
        model: its trainable parameters are shared, as float32. Every peer must build the same names and shapes. A
            wrapper's prefix (torch.compile, DistributedDataParallel) does not count as part of a name. Buffers are not
            shared, so training must not change them: see `check_shareable` and `Buffers`.
        inner_optimizer: steps those parameters; its moments stay with this peer.
        held_out: digest of this peer's held-out text, for the genesis and for comparing evaluations.
        on_event: called on the network thread with a name and facts ("commit", "rollback", "resync", "progress").
        stop: asked whenever this would wait for others; once it returns True, nothing waits any more.

    Raises:
        UsageError: peers can't share this model, e.g. a parameter is complex or a BatchNorm keeps statistics.
        P2PTrainError: there is no peer to join, the model is another one, the disk is full, …
    """

    def __init__(
        self,
        model: torch.nn.Module,
        inner_optimizer: torch.optim.Optimizer,
        run: Run,
        *,
        held_out: Digest = NO_DIGEST,
        on_event: Tell = lambda name, facts: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        check_shareable(model)
        self._buffers = Buffers(model)
        self._run, self._method = run, run.spec.diloco
        self._optimizer, self._codec = inner_optimizer, CODECS[run.spec.diloco.codec]
        self._tensors = shared_parameters(model)
        self._device = next(iter(self._tensors.values())).device
        shapes, frozen = {name: p.shape for name, p in self._tensors.items()}, digest_of_frozen(model)
        self._layout = Layout.of(shapes, self._method.fragments, frozen)
        thetas = [self._layout.gather(self._tensors, f).cpu().numpy() for f in range(self._method.fragments)]
        base = GlobalState.initial(self._layout.digest, thetas, frozen)
        run.establish(base.digest, held_out)
        vitals = Vitals("joining", device=device_name(self._device), held_out=held_out)
        self._view: View
        self._lanes: Lanes
        self._since_contribution = 0
        self._at_pause: Mapping[str, Any] | None = None
        self._rate = _Rate()
        self._exchange = Exchange(run, self._layout, vitals, on_event, stop)
        try:
            self._exchange.start(base)
        except BaseException:
            self._exchange.close()
            raise
        self._load(self._exchange.view)

    def wait_until_ready(self) -> None:
        """Return when this peer has caught up and, if the run has not begun, `swarm.min_peers` peers are ready.

        Raises:
            P2PTrainError: the network or the disk has failed for good.
        """
        self._exchange.wait_or_stop(lambda view: view.caught_up)
        self._load(self._exchange.view)
        self._exchange.enter("ready")
        least = self._run.spec.swarm.min_peers
        self._exchange.wait_or_stop(lambda view: view.head.height > 0 or self._exchange.peers_ready() >= least)
        self._exchange.enter("training")

    # The loop ------------------------------------------------------------------------------------------------------

    def step(self, tokens: int, loss: float | None = None) -> None:
        """Call after every inner optimizer step.

        Args:
            tokens: number of tokens that this step trained on, at least 1.
            loss: this step's loss in nats per token, for the tables.

        Raises:
            ValueError: `tokens` is less than 1.
            TrainingError: the weights or the loss are not finite any more; nothing was contributed.
            UsageError: training has changed a buffer of the model; nothing was contributed.
            P2PTrainError: the network or the disk has failed for good.
        """
        self._run.swarm.check()
        if self.vitals.phase != "training":
            self.wait_until_ready()
        if int(tokens) < 1:
            raise ValueError(f"a step trains on at least one token, not {tokens}")
        tokens, loss = int(tokens), None if loss is None else float(loss)
        if loss is not None and not math.isfinite(loss):
            raise self._not_finite(f"the loss is {loss}")
        self._since_contribution += 1
        self._lanes.count(tokens)
        self._exchange.count_step(tokens, loss, self._rate.after(tokens, monotonic()))
        self._merge_what_is_due()
        if self._is_due():
            self._contribute()
            if self._method.overlap != "free":
                self._merge_what_is_due()

    # Pausing -------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Tell the others, between two steps, not to wait for this peer. It goes on serving them and following their
        commits. Call `rest` meanwhile, and `resume` before the next step."""
        self._at_pause, self._rate = self.state_dict(), _Rate()
        self._exchange.vitals = replace(self.vitals, tokens_per_second=0.0)
        self._exchange.enter("paused")

    def rest(self, seconds: float) -> None:
        """Wait for `seconds`, or until the run is complete.

        Raises:
            P2PTrainError: the network or the disk has failed for good.
        """
        self._run.swarm.check()
        self._exchange.wait(lambda view: self.is_complete, seconds)

    def resume(self) -> None:
        """Go on from the pause as from a saved state; see `load_state_dict`."""
        saved, self._at_pause = self._at_pause, None
        if saved is not None:
            self.load_state_dict(saved)

    # Contributing --------------------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        head, last = self._view.head.height, self._method.last_height
        height = self._lanes.next_height(head)
        if height > head + self._method.fragments or (last is not None and height > last):
            return False
        return self._since_contribution >= self._method.steps_per_round or self._exchange.hurry >= height

    def _contribute(self) -> None:
        """Offer the encoded Δ_f to the next round."""
        self._buffers.check()
        height = self._lanes.next_height(self._view.head.height)
        index = fragment_of(height, self._method.fragments)
        lane = self._lanes[index]
        local = self._layout.gather(self._tensors, index)
        kept = local.clone() if self._method.merge == "carry" else None
        try:
            data = self._codec.encode(lane.theta.on(self._device), local, lane.residual)
        except NonFiniteError:
            raise self._not_finite("the weights hold numbers that are not finite") from None
        base = self._view.base_for(height, self._method.fragments)
        payload = self._exchange.contribute(height, base, data, lane.tokens, lane.steps)
        lost = None if self._codec.lossless else local
        self._lanes.contributed(Pending(height, base, payload, lost, kept, lane.tokens, lane.steps, self.vitals.steps))
        self._since_contribution = 0

    def _offer_again(self) -> None:
        """Offer pending contributions again after a restart or a rollback, in case the others have not heard them."""
        for pending in list(self._lanes.pending.values()):
            data = self._run.folder.ledger.payload(pending.payload)
            if data is None:
                self._lanes.give_back(pending.height)
            else:
                self._exchange.contribute(pending.height, pending.base, data, pending.tokens, pending.steps)

    # Merging -------------------------------------------------------------------------------------------------------

    def _merge_what_is_due(self) -> None:
        """With overlap = n, merge each round's commit exactly n steps after the contribution to it; otherwise, merge
        all commits that have arrived."""
        overlap = self._method.overlap
        if overlap == "free":
            self._adopt(self._exchange.view)
            return
        for height, pending in sorted(self._lanes.pending.items()):
            if self.vitals.steps - pending.at_step >= overlap:
                self._exchange.wait_or_stop(lambda view, height=height: view.head.height >= height)  # type: ignore[misc]
                self._adopt(self._exchange.view, up_to=height)

    def _adopt(self, view: View, up_to: int | None = None) -> None:
        """Merge the fragments that commits, up to height `up_to`, have changed since the last merge."""
        if view.state is self._view.state and up_to is None:
            return
        rolled_back = view.rollbacks != self._view.rollbacks
        if rolled_back:
            self._lanes.roll_back(view)
        for index, lane in enumerate(self._lanes):
            if up_to is None or view.newest(index) <= up_to or rolled_back:
                listed = self._lanes.settle(index, view)
                if view.state.fragments[index].theta.digest != lane.theta.digest:
                    self._merge(index, view, listed)
        self._view = view
        self._merged_height = view.head.height if up_to is None else up_to
        if rolled_back:
            self._offer_again()

    def _merge(self, index: int, view: View, listed: Pending | None) -> None:
        rule, lane, theta = self._method.merge, self._lanes[index], view.state.fragments[index].theta
        reference = listed.local if listed and listed.local is not None else lane.theta.on(self._device)
        new = theta.on(self._device)
        for span, part in self._layout.parts(self._tensors, index):
            local = part.float().reshape(-1)
            merged = merge(rule, local, new[span], self._method.alpha, reference[span])
            part.copy_(merged.view(part.shape))
        lane.theta = theta

    def _load(self, view: View) -> None:
        """Start from nothing but the global weights."""
        for index, fragment in enumerate(view.state.fragments):
            self._layout.scatter(fragment.theta.on(self._device), self._tensors, index)
        self._lanes = Lanes(self._run.swarm.peer_id, view.state)
        self._view, self._merged_height = view, view.head.height

    # Looking -------------------------------------------------------------------------------------------------------

    @property
    def exchange(self) -> Exchange:
        """The network side: peers, this peer's presence, and the view of the head."""
        return self._exchange

    @property
    def head(self) -> Head:
        """The position that this peer has applied: the head of its chain."""
        return self._exchange.view.head

    @property
    def height(self) -> int:
        """The height whose commits, and those below, are merged into the training weights."""
        return self._merged_height

    @property
    def is_complete(self) -> bool:
        """Whether the run has reached its last height."""
        return self._method.last_height is not None and self._exchange.view.head.height >= self._method.last_height

    @property
    def vitals(self) -> Vitals:
        """What this peer says about its training."""
        return self._exchange.vitals

    def learning_rate(self) -> float:
        """The spec's inner learning rate at the run's global progress. A user with an own schedule may ignore it."""
        return learning_rate(self._method, global_progress(self._method, self.height, self._since_contribution))

    def global_parameters(self, view: View | None = None) -> dict[str, torch.Tensor]:
        """A copy of the global weights by the bare model's parameter names, float32 on the training device."""
        state = (view or self._exchange.view).state
        return self._layout.assemble([fragment.theta.on(self._device) for fragment in state.fragments])

    def report_evaluation(self, height: int, loss: float) -> None:
        """Tell the others the held-out loss of the global weights at `height`, unless it is not finite."""
        if not math.isfinite(loss):
            log.warning("the held-out loss at height %d is %s", height, float(loss))
        told = float(loss) if math.isfinite(loss) else None
        self._exchange.vitals = replace(self.vitals, eval_height=int(height), eval_loss=told)

    # Saving and leaving --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What only this peer knows, for torch.save: training weights, inner optimizer, error feedback, pending
        contributions and counters. Call it between two steps, as often as you like."""
        return {
            "height": self._view.head.height,
            "commit": self._view.head.commit,
            "tensors": {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._tensors.items()},
            "optimizer": self._optimizer.state_dict(),
            "since_contribution": self._since_contribution,
            **self._lanes.state_dict(self.vitals.steps),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. Calls `wait_until_ready` first if you have not.

        A fragment that no commit has changed since then goes on as it was; every other one starts from the global
        weights. So a state that is old, or that was loaded before, does no harm. A pending contribution counts if a
        commit has listed it meanwhile; if one still can, the same bytes are offered again (see `Lanes`). With overlap =
        n it is merged n steps after it was made, not counting the pause; with overlap = 0, after the first step.
        """
        if self.vitals.phase != "training":
            self.wait_until_ready()
        self._optimizer.load_state_dict(saved["optimizer"])
        self._since_contribution = saved["since_contribution"]
        unchanged = self._lanes.load_state_dict(saved, self._view, self.vitals.steps, self._device)
        for index in unchanged:
            self._layout.scatter(self._layout.gather(saved["tensors"], index), self._tensors, index)
        self._offer_again()
        text = "loaded a state of height %d (%s) at height %d: %d of %d fragments as they were left"
        here, fragments = self._view.head.height, self._method.fragments
        log.info(text, saved["height"], short(saved["commit"]), here, len(unchanged), fragments)

    def finish(self, timeout: float) -> bool:
        """After the last step: merge what has arrived, and stay until everyone is at this peer's head, at most
        `timeout` seconds. Returns whether they are."""
        self._exchange.enter("complete" if self.is_complete else self.vitals.phase)
        self._adopt(self._exchange.view)
        return self._exchange.wait(lambda view: self._exchange.everyone_is_at(view.head), timeout)

    def halt(self) -> None:
        """Tell the others not to wait for this peer any more."""
        self._exchange.enter("halted")

    def close(self) -> None:
        """Write a snapshot, say goodbye and stop exchanging. The `Run` stays open: close it, too."""
        self._run.remember_peers(list(self._exchange.peers.values()))
        self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _not_finite(self, what: str) -> TrainingError:
        self.halt()
        return TrainingError(
            f"{what} at inner step {self.vitals.steps}",
            "the learning rate may be too high for this batch size, or this device computes wrongly",
            "nothing was contributed; start the peer again to go on from the swarm's weights",
        )


class _Rate:
    """Tokens per second over the last few seconds."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._tokens = 0
        self._rate = 0.0

    def after(self, tokens: int, now: float) -> float:
        if self._since is None:
            self._since = now
            return self._rate
        self._tokens += tokens
        if now - self._since >= RATE_SECONDS or not self._rate:
            self._rate = self._tokens / max(now - self._since, 1e-9)
        if now - self._since >= RATE_SECONDS:
            self._since, self._tokens = now, 0
        return self._rate
