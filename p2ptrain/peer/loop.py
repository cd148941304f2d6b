"""The training loop of a peer, for every method: how it begins and ends, its news for people, its checkpoint."""

from __future__ import annotations

import io
import logging
import queue
from collections.abc import Callable, Mapping
from typing import Any

import torch

from p2ptrain.data.stream import SourceSilent
from p2ptrain.errors import DataError, MemoryLimitError, P2PTrainError
from p2ptrain.method import Trainer
from p2ptrain.monitor import Reporter, events
from p2ptrain.peer.cores import Cores
from p2ptrain.peer.memory import Memory
from p2ptrain.peer.methods import method_of
from p2ptrain.peer.pausing import NEVER, Pause, Pauses, Silence
from p2ptrain.run import digest_of
from p2ptrain.run.digest import DIGEST_BYTES
from p2ptrain.state.files import write_whole
from p2ptrain.state.run import Run
from p2ptrain.swarm import monotonic
from p2ptrain.tasks import Task
from p2ptrain.tasks.batch import is_out_of_memory
from p2ptrain.text import first_line

PROGRESS_SECONDS = 1.0
REST_SECONDS = 1.0
SAVING_SHARE = 0.01
"""Writing checkpoints while training takes at most this part of the time."""

log = logging.getLogger(__name__)


class Loop:
    """Everything that happens on the main thread while a peer trains: `connect`, `begin`, `take_first_step`, `train`,
    `finish`, `save`, `close`."""

    def __init__(
        self,
        run: Run,
        task: Task,
        reporter: Reporter,
        stop: Callable[[], bool],
        pauses: Pauses = NEVER,
        memory: Memory | None = None,
        cores: Cores | None = None,
    ) -> None:
        self._run, self._task, self._reporter, self._stop, self._pauses = run, task, reporter, stop, pauses
        self._method = method_of(run.spec)
        self._trainer: Trainer | None = None
        self._memory, self._cores = memory or Memory(None, task.device), cores
        self._memory_looked, self._made_room = 0.0, False
        self._short_of_memory: MemoryLimitError | None = None
        self._silence = Silence(task.prepare)
        self._no_data: DataError | None = None
        self._news: queue.SimpleQueue[tuple[float, str, Mapping[str, Any]]] = queue.SimpleQueue()
        self._fetch_began: tuple[float, int] | None = None
        self._batch = 0
        self._began = self._reported = self._saved = monotonic()
        self._saving_seconds = 0.0

    @property
    def given_up(self) -> P2PTrainError | None:
        """Why this peer stops by itself: too little memory, no data, or it is no member any more; else None."""
        return self._short_of_memory or self._no_data or self._run.swarm.door.expelled

    # The life of a loop ----------------------------------------------------------------------------------------------

    @property
    def trainer(self) -> Trainer:
        """What trains; it exists after `connect`."""
        assert self._trainer is not None, "connect comes first"
        return self._trainer

    def connect(self) -> None:
        """Found the run, join it or resume it. Raises P2PTrainError for example if no peer answers, the model is
        another one, or the disk is full."""
        self._trainer = self._method.trainer(self._run, self._task, self._hear, self._look_up)
        self._tell_news()

    def begin(self) -> None:
        """Wait until the swarm is ready; then load the last checkpoint, if there is one."""
        self.trainer.optimizer.wait_until_ready()
        self._restore()
        self._tell_news()
        self._began = self._reported = self._saved = monotonic()

    def take_first_step(self) -> None:
        """The first step compiles and may take minutes. If it is interrupted, nothing is lost."""
        self._evaluate()
        while self._may_go_on() and not self._step():
            pass

    def train(self) -> None:
        """Step until the run is complete or somebody asks to stop."""
        self._attend()
        while self._may_go_on():
            if self._step():
                self._attend()
        self._tell_news()
        self._evaluate()

    def _step(self) -> bool:
        """Return whether the step fitted into memory."""
        used = self.trainer.step(self._batch, self._fits)
        self._batch += used
        return used > 0

    def _attend(self) -> None:
        """After a step: do what is due."""
        self._tell_news()
        self._evaluate()
        self._tell_progress()
        self._save_if_due()

    def finish(self, timeout: float) -> None:
        """After the last step: apply what arrived, and stay until all peers have the same head, at most `timeout` s."""
        self.trainer.finish(timeout)
        self._tell_news()

    def close(self) -> None:
        """Leave the swarm; at any time."""
        if self._trainer is not None:
            self._trainer.optimizer.close()

    @property
    def is_complete(self) -> bool:
        """Whether the run has come to its end."""
        return self.trainer.optimizer.is_complete

    def _evaluate(self) -> None:
        found = self.trainer.evaluate()
        if found is not None:
            self._reporter.emit(found)

    # News ------------------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Seconds since the first step."""
        return monotonic() - self._began

    def warn(self, text: str) -> None:
        """Show a warning at the next step; any thread may call it."""
        self._hear("warning", {"text": text})

    def _hear(self, name: str, facts: Mapping[str, Any]) -> None:
        self._news.put((monotonic(), name, facts))

    def _look_up(self) -> bool:
        """Called while training waits for other peers: report the news, and return whether to stop waiting."""
        self._tell_news()
        return self._stop() or self.given_up is not None

    def _tell_news(self) -> None:
        while not self._news.empty():
            at, name, facts = self._news.get()
            if name == "progress":
                self._tell_fetching(facts["here"], facts["in_all"], at)
            elif name == "warning":
                self._reporter.emit(events.Warned(facts["text"]))
            elif (event := self._method.as_event(name, facts)) is not None:
                self._reporter.emit(event)

    def _tell_fetching(self, here: int, in_all: int, at: float) -> None:
        began, already = self._fetch_began = self._fetch_began or (at, here)
        if here == in_all:
            self._fetch_began = None
        elif at - self._reported < PROGRESS_SECONDS:
            return
        self._reported = at
        rate = (here - already) / (at - began) if at > began else 0.0
        self._reporter.emit(events.Fetching(here, in_all, round(at - began, 3), round(rate)))

    def _tell_progress(self) -> None:
        """About once a second."""
        now = monotonic()
        if now - self._reported < PROGRESS_SECONDS:
            return
        self._reported = now
        optimizer, rate = self.trainer.optimizer, self.trainer.learning_rate
        vitals, others, sent = optimizer.vitals, len(optimizer.exchange.peers), self._run.swarm.node.sent.total()
        progress = (vitals.steps, round(self.seconds, 3), optimizer.height, vitals.loss, rate)
        self._reporter.emit(events.Progress(*progress, vitals.tokens_per_second, others, sent))

    # Memory and cores ------------------------------------------------------------------------------------------------

    def _may_go_on(self) -> bool:
        """Called before each step: keep to the memory limit and the free cores, pause if it is time, and return whether
        to train on."""
        self._watch_memory()
        if self._cores is not None:
            self._cores.look()
        self._pause_if_due()
        return not self._stop() and self.given_up is None and not self.is_complete

    def _watch_memory(self) -> None:
        """About once a second: free memory when the limit is near, and stop the peer if that does not help."""
        now = monotonic()
        if self._memory.limit is None or now - self._memory_looked < PROGRESS_SECONDS:
            return
        self._memory_looked = now
        used, state = self._memory.used(), self._memory.state()
        if state == "fine":
            self._made_room = False
            return
        told = f"{used / 1e9:.2f} GB are in use, and --max-memory allows {self._memory.limit / 1e9:.2f} GB"
        if not self._made_room:
            self._made_room = True
            self._memory.make_room()
            self._reporter.emit(events.Warned(f"{told}: caches are emptied{self._halve()}"))
            self._memory.forget_peak()  # memory that was freed does not count
        elif state == "full":
            step = "start the peer again with a higher --max-memory; it resumes"
            self._short_of_memory = MemoryLimitError(told, "emptying caches did not help", step)

    def _halve(self) -> str:
        """Halve the batch size and return the words for it; empty if a batch has one row already."""
        if self._task.batch_size == 1:
            return ""
        self._task.batch_size //= 2
        return f", batches have {self._task.batch_size} rows now"

    def _fits(self, step: Callable[[], object]) -> bool:
        """Take a step, and return whether it fitted into memory; if not, halve the batch size for the next one."""
        try:
            step()
        except SourceSilent:
            return False  # `_pause_if_due` asks again
        except DataError as error:
            self._no_data = self._unless_interrupted(error)
            return False
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = (str(error).splitlines() or ["no more memory"])[0]
        else:
            return True
        self._task.model.zero_grad(set_to_none=True)
        self._memory.make_room()  # after the error and what it held are gone
        if halved := self._halve():
            self._reporter.emit(events.Warned(f"out of memory{halved} ({reason})"))
        else:
            what, then = "out of memory with a batch of one row", "close other programs and start the peer again"
            self._short_of_memory = MemoryLimitError(what, reason, then)
        return False

    # Pausing ---------------------------------------------------------------------------------------------------------

    def _pause_if_due(self) -> None:
        """Between two steps: while the volunteer needs the machine for something else, or no data come, stay in the
        swarm without training. Return when that is over, or somebody asks to stop."""
        pause = self._pause_now()
        if pause is None:
            return
        optimizer = self.trainer.optimizer
        optimizer.pause()
        self.save()
        if self._task.device.type == "cuda":
            torch.cuda.empty_cache()
        told, began = Pause(""), monotonic()
        while pause is not None and not self._look_up() and not self.is_complete:
            if (pause.until, bool(told.reason)) != (told.until, True):
                told = pause
                until = None if pause.until is None else pause.until.isoformat(timespec="minutes")
                self._reporter.emit(events.Paused(pause.reason, until))
            optimizer.rest(REST_SECONDS)
            self._tell_news()
            pause = self._pause_now()
        if pause is None:
            optimizer.resume()
            self._reporter.emit(events.WentOn(round(monotonic() - began, 3)))

    def _pause_now(self) -> Pause | None:
        """Why to pause now: the volunteer's wish, or data that do not come; None: train."""
        try:
            return self._pauses.now() or self._silence.now()
        except DataError as error:
            self._no_data = self._unless_interrupted(error)
            return None

    def _unless_interrupted(self, error: DataError) -> DataError | None:
        """None if somebody has asked to stop: a library may have turned the interruption into this error."""
        return None if self._stop() else error

    # What this peer alone knows --------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint to the run folder: what only this peer knows, its place in the data, random states.

        Raises StorageError if the disk is full; the last checkpoint stays as it is."""
        began = monotonic()
        state = {
            "method": self.trainer.state_dict(),
            "batch": self._batch,
            "data": self._task.data_state(),
            "rng": torch.get_rng_state(),  # dropout
            "cuda_rng": torch.cuda.get_rng_state(self._task.device) if self._task.device.type == "cuda" else None,
        }
        buffer = io.BytesIO()
        buffer.write(bytes(DIGEST_BYTES))  # the digest's place: the checkpoint is too large to copy it in memory
        torch.save(state, buffer)
        with buffer.getbuffer() as data:
            data[:DIGEST_BYTES] = digest_of(data[DIGEST_BYTES:])
            write_whole(self._run.folder.checkpoint, data)
        self._saved = monotonic()
        self._saving_seconds = self._saved - began

    def rescue(self) -> None:
        """Call it while an error ends training: log the error, and save what can still be saved."""
        log.exception("training ends with an error")
        try:
            self.save()
        except Exception:  # the first error is the one that people need to see
            log.exception("what was trained since the last checkpoint can't be saved")

    def forget(self) -> None:
        """Remove the checkpoint: the next start goes on from the swarm's weights alone."""
        self._run.folder.checkpoint.unlink(missing_ok=True)

    def _save_if_due(self) -> None:
        """Save so that a crash loses little, but spend at most `SAVING_SHARE` of the time on it."""
        if self.trainer.is_saving_due() and self._saving_seconds <= SAVING_SHARE * (monotonic() - self._saved):
            self.save()

    def _restore(self) -> None:
        """Load the checkpoint, if there is one. If it is damaged, the peer goes on from the swarm's weights alone."""
        path = self._run.folder.checkpoint
        if not path.exists():
            return
        raw = path.read_bytes()
        data = raw[DIGEST_BYTES:]
        if digest_of(data) != raw[:DIGEST_BYTES]:
            log.warning("%s is damaged: training goes on from the swarm's weights, with a new inner optimizer", path)
            return
        # To the host first: `load_state_dict` brings each tensor to its own device.
        try:
            state = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        except Exception as error:  # of another version of torch, for example
            log.warning("%s can't be read (%s): training goes on from the swarm's weights", path, first_line(error))
            return
        self.trainer.load_state_dict(state["method"])
        self._batch = state["batch"]
        self._task.restore_data(state["data"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self._task.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self._task.device)
