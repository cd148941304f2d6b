"""The training loop of a peer: the task's loss, AdamW, Streaming DiLoCo, evaluation when it is this peer's turn."""

from __future__ import annotations

import io
import queue
from collections.abc import Callable, Mapping
from typing import Any

import torch
from blake3 import blake3

from p2ptrain.diloco import Commit, Head, StreamingDiLoCo
from p2ptrain.errors import StorageError
from p2ptrain.monitor import Reporter, events
from p2ptrain.run import DiLoCoMethod
from p2ptrain.state import write_whole
from p2ptrain.state.run import Run
from p2ptrain.swarm import monotonic
from p2ptrain.tasks import CausalLM

PROGRESS_SECONDS = 1.0


class Trainer:
    """Everything that happens on the main thread while a peer trains."""

    def __init__(self, run: Run, task: CausalLM, reporter: Reporter, stop: Callable[[], bool]) -> None:
        self._run, self._task, self._reporter, self._stop = run, task, reporter, stop
        self._news: queue.SimpleQueue[tuple[str, Mapping[str, Any]]] = queue.SimpleQueue()
        self._optimizer = make_optimizer(task.model, run.spec.method)
        self._batch = 0
        self._began = self._reported = monotonic()
        self.diloco = StreamingDiLoCo(
            task.model,
            self._optimizer,
            run,
            held_out=task.held_out_digest,
            on_event=lambda name, facts: self._news.put((name, facts)),
            stop=stop,
        )

    def begin(self) -> None:
        """Wait for the swarm, and go on from the checkpoint of last time, if there is one."""
        self.diloco.wait_until_ready()
        self._restore()

    def train(self) -> None:
        """Step until the run is complete or somebody asks to stop."""
        self._began = self._reported = monotonic()
        while not self._stop() and not self.diloco.is_complete:
            rate = self.diloco.learning_rate()
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            loss = self._task.loss(self._batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._task.model.parameters(), self._run.spec.method.clip_norm)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._batch += 1
            self.diloco.step(self._task.tokens_per_step, loss.item())
            self._tell(rate)
        self._tell_news()

    @property
    def seconds(self) -> float:
        """Since the first inner step."""
        return monotonic() - self._began

    def _tell(self, rate: float) -> None:
        self._tell_news()
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
            name, facts = self._news.get()
            if name == "commit":
                self._tell_commit(facts["commit"], facts["head"], facts["rolled_back"])
            elif name == "resync":
                self._reporter.emit(events.Warned(f"{facts['reason']}: fetching the swarm's state anew"))
            elif name == "warning":
                self._reporter.emit(events.Warned(facts["text"]))

    def warn(self, text: str) -> None:
        """Show a warning at the next step; any thread may call it."""
        self._news.put(("warning", {"text": text}))

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
        """Write training weights, optimizer and data position to the run folder.

        Raises:
            StorageError: the disk is full; the checkpoint before is untouched.
        """
        state = {"diloco": self.diloco.state_dict(), "batch": self._batch, "data": self._task.sequences.state()}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_whole(self._run.folder.checkpoint, buffer.getvalue())

    def _restore(self) -> None:
        """Raises StorageError if the checkpoint is damaged."""
        path = self._run.folder.checkpoint
        if not path.exists():
            return
        try:
            state = torch.load(path, weights_only=True)
            self.diloco.load_state_dict(state["diloco"])
        except Exception as error:  # torch has no single type for a file that it can't read
            raise StorageError(
                f"the checkpoint {path} is damaged",
                str(error).splitlines()[0],
                "delete it: the peer then goes on from the swarm's weights, with a fresh inner optimizer",
            ) from None
        self._batch = state["batch"]
        self._task.sequences.restore(state["data"])


def make_optimizer(model: torch.nn.Module, method: DiLoCoMethod) -> torch.optim.AdamW:
    """AdamW with the spec's settings; weight decay on matrices only."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": method.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=method.lr, betas=method.betas)
