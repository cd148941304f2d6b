"""The training loop of a peer: the task's loss, AdamW, Streaming DiLoCo, evaluation when it is this peer's turn."""

from __future__ import annotations

import io
import logging
import queue
from collections.abc import Callable, Mapping
from typing import Any

import torch
from blake3 import blake3

from p2ptrain.diloco import Commit, Head, StreamingDiLoCo
from p2ptrain.monitor import Reporter, events
from p2ptrain.run import DiLoCoMethod, digest_of
from p2ptrain.run.digest import DIGEST_BYTES
from p2ptrain.state import write_whole
from p2ptrain.state.run import Run
from p2ptrain.swarm import monotonic
from p2ptrain.tasks import CausalLM

PROGRESS_SECONDS = 1.0
SAVING_SHARE = 0.01
"""Of the training time, at most, for writing checkpoints meanwhile."""

log = logging.getLogger(__name__)


class Trainer:
    """Everything that happens on the main thread while a peer trains: `connect`, `begin`, `train`, `save`, `close`."""

    diloco: StreamingDiLoCo

    def __init__(self, run: Run, task: CausalLM, reporter: Reporter, stop: Callable[[], bool]) -> None:
        self._run, self._task, self._reporter, self._stop = run, task, reporter, stop
        self._news: queue.SimpleQueue[tuple[float, str, Mapping[str, Any]]] = queue.SimpleQueue()
        self._newest: tuple[Commit, Head] | None = None
        self._fetch_began: tuple[float, int] | None = None
        self._optimizer = make_optimizer(task.model, run.spec.diloco)
        self._batch = 0
        self._began = self._reported = self._saved = monotonic()
        self._saved_height, self._saving_seconds = 0, 0.0

    def connect(self) -> None:
        """Found the run, join it or go back to it."""
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
        """Leave the swarm, however far this has come."""
        if hasattr(self, "diloco"):
            self.diloco.close()

    def _hear(self, name: str, facts: Mapping[str, Any]) -> None:
        self._news.put((monotonic(), name, facts))

    def _look_up(self) -> bool:
        """Asked while training waits for others: tells what happens meanwhile, and whether to stop waiting."""
        self._tell_news()
        return self._stop()

    def begin(self) -> None:
        """Wait for the swarm, and go on from the checkpoint of last time, if there is one."""
        self.diloco.wait_until_ready()
        self._restore()
        self._tell_news()

    def train(self) -> None:
        """Step until the run is complete or somebody asks to stop."""
        self._began = self._reported = self._saved = monotonic()
        self._saved_height = self.diloco.height
        while not self._stop() and not self.diloco.is_complete:
            rate = self.diloco.learning_rate()
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            loss = self._task.loss(self._batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._task.model.parameters(), self._run.spec.diloco.clip_norm)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._batch += 1
            self.diloco.step(self._task.tokens_per_step, loss.item())
            self._tell(rate)
            self._save_now_and_then()
        self._tell_news()
        self._evaluate()

    @property
    def seconds(self) -> float:
        """Since the first inner step."""
        return monotonic() - self._began

    def _tell(self, rate: float) -> None:
        self._tell_news()
        self._evaluate()
        now = monotonic()
        if now - self._reported < PROGRESS_SECONDS:
            return
        self._reported = now
        vitals = self.diloco.vitals
        self._reporter.emit(
            events.Progress(
                vitals.steps,
                round(self.seconds, 3),
                self.diloco.height,
                vitals.loss,
                rate,
                vitals.tokens_per_second,
                len(self.diloco.exchange.peers),
                self._run.swarm.node.sent.total(),
            )
        )

    def _tell_news(self) -> None:
        while not self._news.empty():
            at, name, facts = self._news.get()
            if name == "commit":
                self._newest = facts["commit"], facts["head"]
                self._tell_commit(facts["commit"], facts["head"], facts["rolled_back"])
            elif name == "progress":
                self._tell_fetching(facts["here"], facts["in_all"], at)
            elif name == "rollback":
                cost = facts["cost"]
                told = events.RolledBack(cost.commits, cost.old.hex(), cost.new.hex(), cost.tokens, cost.own_tokens)
                self._reporter.emit(told)
            elif name == "resync":
                self._reporter.emit(events.Warned(f"{facts['reason']}: fetching the swarm's state anew"))
            elif name == "warning":
                self._reporter.emit(events.Warned(facts["text"]))

    def warn(self, text: str) -> None:
        """Show a warning at the next step; any thread may call it."""
        self._hear("warning", {"text": text})

    def _tell_fetching(self, here: int, in_all: int, at: float) -> None:
        began, already = self._fetch_began = self._fetch_began or (at, here)
        if here == in_all:
            self._fetch_began = None
        elif at - self._reported < PROGRESS_SECONDS:
            return
        self._reported = at
        rate = (here - already) / (at - began) if at > began else 0.0
        self._reporter.emit(events.Fetching(here, in_all, round(at - began, 3), round(rate)))

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
            loss = self._task.evaluate(self.diloco.global_parameters(view))
            self.diloco.report_evaluation(head.height, loss)
            self._reporter.emit(events.Evaluated(head.height, loss))

    def _is_evaluator(self, commit: Commit) -> bool:
        """One of the commit's contributors, drawn by its digest, spares the others the work."""
        authors = [part.author for part in commit.contributions]
        chosen = min(authors, key=lambda peer: blake3(b"eval" + commit.digest + peer.encode()).digest(), default="")
        return chosen == self._run.swarm.peer_id

    # What this peer alone knows --------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write training weights, optimizer, data position and random numbers' state to the run folder.

        Raises:
            StorageError: the disk is full; the checkpoint before is untouched.
        """
        began = monotonic()
        state = {
            "diloco": self.diloco.state_dict(),
            "batch": self._batch,
            "data": self._task.sequences.state(),
            "rng": torch.get_rng_state(),  # dropout
            "cuda_rng": torch.cuda.get_rng_state(self._task.device) if self._task.device.type == "cuda" else None,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        write_whole(self._run.folder.checkpoint, digest_of(data) + data)
        self._saved, self._saved_height = monotonic(), self.diloco.height
        self._saving_seconds = self._saved - began

    def _save_now_and_then(self) -> None:
        """At snapshot heights, so that a crash loses little, but never for more than its share of the time."""
        every = self._run.spec.diloco.snapshot_every
        if self.diloco.height // every <= self._saved_height // every:
            return
        if self._saving_seconds <= SAVING_SHARE * (monotonic() - self._saved):
            self.save()

    def _restore(self) -> None:
        """Go on from the checkpoint, unless it is damaged: then from the swarm's weights alone."""
        path = self._run.folder.checkpoint
        if not path.exists():
            return
        raw = path.read_bytes()
        data = raw[DIGEST_BYTES:]
        if digest_of(data) != raw[:DIGEST_BYTES]:
            log.warning("%s is damaged: going on from the swarm's weights, with a fresh inner optimizer", path)
            return
        # Each tensor goes to its own device from the host.
        state = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        self.diloco.load_state_dict(state["diloco"])
        self._batch = state["batch"]
        self._task.sequences.restore(state["data"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self._task.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self._task.device)


def make_optimizer(model: torch.nn.Module, method: DiLoCoMethod) -> torch.optim.AdamW:
    """AdamW with the spec's settings; weight decay on matrices only."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": method.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=method.lr, betas=method.betas)
