"""A peer that trains a task by one-byte SPSA. Peers evaluate by turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from p2ptrain.method import Tell
from p2ptrain.method.trainer import Fits
from p2ptrain.monitor import events
from p2ptrain.spsa.byte import rate, rate_step
from p2ptrain.spsa.optimizer import OneByteSPSA
from p2ptrain.state.run import Run
from p2ptrain.swarm import monotonic
from p2ptrain.tasks import Task

SAVE_SECONDS = 60.0
RECORDS_PER_HEIGHT = 32
"""Records that count as one height where a spec gives a number of heights."""


class SPSATrainer:
    """See `Trainer`."""

    def __init__(self, run: Run, task: Task, tell: Tell, stop: Callable[[], bool]) -> None:
        self._run, self._task, self._method, self._stop = run, task, run.spec.spsa, stop
        self.optimizer = OneByteSPSA(
            task.model, task.loss_on, run, held_out=task.held_out_digest, bf16=task.bf16, on_event=tell, stop=stop
        )
        self._evaluated = -1
        """The number of the last evaluation that was due, whoever's turn it was."""
        self._saved = monotonic()

    @property
    def learning_rate(self) -> float:
        method = self._method
        return method.lr * float(rate(method, rate_step(method, self.optimizer.records)))

    def step(self, index: int, fits: Fits) -> int:
        each = self._method.batches_per_seed
        return each if fits(lambda: self._measure(range(index, index + each))) else 0

    def _measure(self, numbers: range) -> None:
        tokens = self._task.tokens_per_step * len(numbers) * 2 * self._method.seeds_per_step
        self.optimizer.step(*map(self._task.batch, numbers), tokens=tokens)

    def evaluate(self) -> events.Evaluated | None:
        """See `Trainer.evaluate`. Evaluations are due at the beginning and every `eval.every` heights."""
        turn = self.optimizer.records // (self._run.spec.eval.every * RECORDS_PER_HEIGHT)
        if turn <= self._evaluated:
            return None
        self._evaluated = turn
        me = self._run.swarm.peer_id
        awake = (seen.author for seen in self.optimizer.exchange.peers.values() if seen.phase != "paused")
        peers = sorted([me, *awake])
        if peers[turn % len(peers)] != me:
            return None
        found = self._task.evaluate(self.optimizer.global_parameters(), self._stop)
        if found is None:
            return None
        self.optimizer.report_evaluation(self.optimizer.records, found.loss)
        return events.Evaluated(self.optimizer.records, found.loss, found.accuracy)

    def finish(self, timeout: float) -> None:
        self.optimizer.finish(timeout)
        self.optimizer.save()

    def is_saving_due(self) -> bool:
        return monotonic() - self._saved >= SAVE_SECONDS

    def state_dict(self) -> dict[str, Any]:
        """Empty: the ledger has everything."""
        self._saved = monotonic()
        return {}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """There is nothing to load, see `state_dict`."""


def as_event(name: str, facts: Mapping[str, Any]) -> events.Event | None:
    """See `Method.as_event`."""
    match name:
        case "mark":
            position, state = facts["position"].hex(), facts["state"].hex()
            return events.Marked(facts["number"], facts["records"], position, state)
        case "replay":
            return events.Replaying(facts["here"], facts["in_all"], facts["seconds"])
    return None
