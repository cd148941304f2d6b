"""The training loop of a peer: the task's loss, AdamW, Streaming DiLoCo, evaluation when it is this peer's turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from blake3 import blake3

from p2ptrain.diloco import Commit, Head, StreamingDiLoCo
from p2ptrain.monitor import events
from p2ptrain.peer.loop import Loop, Place
from p2ptrain.run import DiLoCoMethod
from p2ptrain.swarm import Presence, Vitals, monotonic


class DiLoCoLoop(Loop):
    """See `Loop`."""

    diloco: StreamingDiLoCo
    _optimizer: torch.optim.AdamW
    _newest: tuple[Commit, Head] | None = None
    _saved_height = 0
    _loss = 0.0

    def connect(self) -> None:
        self._optimizer = make_optimizer(self._task.model, self._run.spec.diloco)
        self.diloco = StreamingDiLoCo(
            self._task.model,
            self._optimizer,
            self._run,
            held_out=self._task.held_out_digest,
            on_event=self._hear,
            stop=self._look_up,
        )
        self._tell_news()

    def close(self) -> None:
        if hasattr(self, "diloco"):
            self.diloco.close()

    def begin(self) -> None:
        self.diloco.wait_until_ready()
        self._restore()
        self._tell_news()

    def train(self) -> None:
        self._began = self._reported = self._saved = monotonic()
        self._saved_height = self.diloco.height
        while self._may_go_on():
            rate = self.diloco.learning_rate()
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            if not self._fits(self._differentiate):
                continue
            torch.nn.utils.clip_grad_norm_(self._task.model.parameters(), self._run.spec.diloco.clip_norm)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._batch += 1
            self.diloco.step(self._task.tokens_per_step, self._loss)
            self._tell_news()
            self._evaluate()
            self._tell_progress(self.diloco.height, rate)
            self._save_now_and_then()
        self._tell_news()
        self._evaluate()

    def _differentiate(self) -> None:
        loss = self._task.loss(self._batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self._loss = loss.item()

    def pause(self) -> None:
        self.diloco.pause()

    def rest(self, seconds: float) -> None:
        self.diloco.rest(seconds)

    def resume(self) -> None:
        self.diloco.resume()

    def finish(self, timeout: float) -> None:
        self.diloco.finish(timeout)

    @property
    def is_complete(self) -> bool:
        return self.diloco.is_complete

    @property
    def vitals(self) -> Vitals:
        return self.diloco.vitals

    @property
    def place(self) -> Place:
        head = self.diloco.exchange.view.head
        return Place(head.height, head.commit, head.state)

    @property
    def others(self) -> Iterable[Presence]:
        return self.diloco.exchange.peers.values()

    @property
    def refused(self) -> Mapping[str, int]:
        return self.diloco.exchange.refused

    @property
    def own_presence(self) -> Presence:
        return self.diloco.exchange.own_presence

    def _tell_of(self, name: str, facts: Mapping[str, Any]) -> None:
        if name == "commit":
            self._newest = facts["commit"], facts["head"]
            self._tell_commit(facts["commit"], facts["head"], facts["rolled_back"])
        elif name == "rollback":
            cost = facts["cost"]
            told = events.RolledBack(cost.commits, cost.old.hex(), cost.new.hex(), cost.tokens, cost.own_tokens)
            self._reporter.emit(told)
        elif name == "resync":
            self._reporter.emit(events.Warned(f"{facts['reason']}: fetching the swarm's state anew"))

    def _tell_commit(self, commit: Commit, head: Head, rolled_back: int) -> None:
        self._reporter.emit(
            events.Committed(
                head.height,
                head.commit.hex(),
                head.state.hex(),
                commit.author,
                commit.attempt,
                tuple(part.author for part in commit.contributions),
                tuple(part.steps for part in commit.contributions),
                sum(part.tokens for part in commit.contributions),
                rolled_back,
            )
        )

    def _evaluate(self) -> None:
        """The newest commit's held-out loss, if it is due and this peer's turn."""
        if self._newest is None:
            return
        (commit, head), self._newest = self._newest, None
        view = self.diloco.exchange.view
        if head.height % self._run.spec.eval.every == 0 and view.head == head and self._is_evaluator(commit):
            found = self._task.evaluate(self.diloco.global_parameters(view))
            self.diloco.report_evaluation(head.height, found.loss)
            self._reporter.emit(events.Evaluated(head.height, found.loss, found.accuracy))

    def _is_evaluator(self, commit: Commit) -> bool:
        """One of the commit's contributors, drawn by its digest, spares the others the work."""
        authors = [part.author for part in commit.contributions]
        chosen = min(authors, key=lambda peer: blake3(b"eval" + commit.digest + peer.encode()).digest(), default="")
        return chosen == self._run.swarm.peer_id

    # What this peer alone knows --------------------------------------------------------------------------------------

    def save(self) -> None:
        super().save()
        self._saved_height = self.diloco.height

    def _save_now_and_then(self) -> None:
        """At snapshot heights."""
        every = self._run.spec.diloco.snapshot_every
        if self.diloco.height // every > self._saved_height // every and self._may_save():
            self.save()

    def _own_state(self) -> dict[str, Any]:
        return {"diloco": self.diloco.state_dict()}

    def _load_own_state(self, saved: Mapping[str, Any]) -> None:
        self.diloco.load_state_dict(saved["diloco"])


def make_optimizer(model: torch.nn.Module, method: DiLoCoMethod) -> torch.optim.AdamW:
    """AdamW with the spec's settings; weight decay on matrices only."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": method.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=method.lr, betas=method.betas)
