"""A peer that trains by Streaming DiLoCo: the task's loss, AdamW, and evaluation when it is this peer's turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from blake3 import blake3

from p2ptrain.diloco.chain import Commit
from p2ptrain.diloco.optimizer import StreamingDiLoCo
from p2ptrain.method import Tell
from p2ptrain.method.trainer import Fits
from p2ptrain.monitor import events
from p2ptrain.run import DiLoCoMethod
from p2ptrain.run.head import Head
from p2ptrain.state.run import Run
from p2ptrain.tasks import Task


class DiLoCoTrainer:
    """See `Trainer`."""

    def __init__(self, run: Run, task: Task, tell: Tell, stop: Callable[[], bool]) -> None:
        self._run, self._task, self._method, self._stop = run, task, run.spec.diloco, stop
        self._inner = make_optimizer(task.model, self._method)
        self.optimizer = StreamingDiLoCo(
            task.model, self._inner, run, held_out=task.held_out_digest, on_event=tell, stop=stop
        )
        self._looked_at = self.optimizer.exchange.view.head
        """The last head that was looked at for evaluation."""
        self._saved_height = self.optimizer.height
        self._loss = 0.0
        self.learning_rate = 0.0

    def step(self, index: int, fits: Fits) -> int:
        self.learning_rate = self.optimizer.learning_rate()
        for group in self._inner.param_groups:
            group["lr"] = self.learning_rate
        if not fits(lambda: self._differentiate(index)):
            return 0
        torch.nn.utils.clip_grad_norm_(self._task.model.parameters(), self._method.clip_norm)
        self._inner.step()
        self._inner.zero_grad()
        self.optimizer.step(self._task.tokens_per_step, self._loss)
        return 1

    def _differentiate(self, index: int) -> None:
        loss = self._task.loss(index)
        loss.backward()  # type: ignore[no-untyped-call]
        self._loss = loss.item()

    def evaluate(self) -> events.Evaluated | None:
        view = self.optimizer.exchange.view
        head, commit = view.head, view.commits.get(view.head.height)
        if head == self._looked_at or commit is None:
            return None
        self._looked_at = head
        if head.height % self._run.spec.eval.every or evaluator_of(commit) != self._run.swarm.peer_id:
            return None
        found = self._task.evaluate(self.optimizer.global_parameters(view), self._stop)
        if found is None:
            return None
        self.optimizer.report_evaluation(head.height, found.loss)
        return events.Evaluated(head.height, found.loss, found.accuracy)

    def finish(self, timeout: float) -> None:
        self.optimizer.finish(timeout)

    def is_saving_due(self) -> bool:
        """True once the height has passed a multiple of `snapshot_every` since the last save."""
        every = self._method.snapshot_every
        return self.optimizer.height // every > self._saved_height // every

    def state_dict(self) -> dict[str, Any]:
        self._saved_height = self.optimizer.height
        return self.optimizer.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(saved)


def make_optimizer(model: torch.nn.Module, method: DiLoCoMethod) -> torch.optim.AdamW:
    """AdamW with the spec's settings; only matrices get weight decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": method.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=method.lr, betas=method.betas)


def evaluator_of(commit: Commit) -> str:
    """The contributor that evaluates after a commit; empty if the commit lists none. The commit's digest draws it, so
    that one peer does the work for all."""
    authors = [part.author for part in commit.contributions]
    return min(authors, key=lambda peer: blake3(b"eval" + commit.digest + peer.encode()).digest(), default="")


def as_event(name: str, facts: Mapping[str, Any]) -> events.Event | None:
    """See `Method.as_event`."""
    match name:
        case "commit":
            return _committed(facts["commit"], facts["head"], facts["rolled_back"])
        case "rollback":
            cost = facts["cost"]
            return events.RolledBack(cost.commits, cost.old.hex(), cost.new.hex(), cost.tokens, cost.own_tokens)
        case "resync":
            return events.Warned(f"{facts['reason']}: fetching the swarm's state again")
    return None


def _committed(commit: Commit, head: Head, rolled_back: int) -> events.Committed:
    parts, where = commit.contributions, (head.height, head.commit.hex(), head.state.hex())
    authors, steps = tuple(part.author for part in parts), tuple(part.steps for part in parts)
    tokens = sum(part.tokens for part in parts)
    return events.Committed(*where, commit.author, commit.attempt, authors, steps, tokens, rolled_back)
