"""The life of a peer's process: it begins, trains, and ends in one of several ways."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import torch

from p2ptrain import output
from p2ptrain.data.tally import Tally
from p2ptrain.errors import AccessError, StorageError, TrainingError
from p2ptrain.method import SharedOptimizer
from p2ptrain.monitor import Reporter, describe, events
from p2ptrain.output import LogFile
from p2ptrain.peer.batch_size import choose_batch_size
from p2ptrain.peer.busy import open_probes
from p2ptrain.peer.contents import check_own_files, check_room, look_at
from p2ptrain.peer.cores import Cores, OthersShare
from p2ptrain.peer.loop import Loop
from p2ptrain.peer.memory import Memory, check_before_loading
from p2ptrain.peer.pausing import Pauses
from p2ptrain.peer.stopping import Stopping
from p2ptrain.peer.volunteer import Volunteer
from p2ptrain.run import short
from p2ptrain.run.access import owners_of
from p2ptrain.state.folder import find_folder
from p2ptrain.state.home import default_home
from p2ptrain.state.run import Run
from p2ptrain.swarm import version
from p2ptrain.tasks import Task, open_task, shard_seed

FINISH_SECONDS = 60.0
OLD_LOGS = 2

log = logging.getLogger(__name__)


def run_peer(
    begin: Callable[[], Run],
    volunteer: Volunteer,
    reporter: Reporter,
    again: Sequence[str] = (),
    pauses: Pauses | None = None,
) -> None:
    """Train until the run is complete or somebody asks to stop; then save, and leave the swarm.

    Somebody who asks before the first step is done does not wait: until then there is nothing to save.

    Args:
        begin: founds, joins or resumes the `Run`.
        again: the options that were typed; they become part of the command that resumes.
        pauses: used instead of the pauses that the volunteer asks for.

    Raises:
        P2PTrainError: the peer can't begin or can't go on; the error has the exit code of the process.
    """
    output.outlive(lambda error: output.say_on_stderr(_without_output(error)))
    with Stopping() as stopping, contextlib.ExitStack() as stack:
        peer = _Peer(volunteer, reporter, again, stopping, stack)
        try:
            peer.load(begin, pauses)
            peer.take_first_step()
            stopping.finish_steps()
        except BaseException:  # a library may have turned the interruption into an error of its own
            if not stopping.requested():
                raise
            stopping.leave()
            peer.say_goodbye()
            return
        peer.train()
        peer.end()


def _without_output(error: OSError) -> str:
    return f"standard output is gone ({error.strerror}): the peer goes on without it"


class _Peer:
    """What `run_peer` does, one step after another. `stack` takes what has to be closed."""

    def __init__(
        self,
        volunteer: Volunteer,
        reporter: Reporter,
        again: Sequence[str],
        stopping: Stopping,
        stack: contextlib.ExitStack,
    ) -> None:
        self._volunteer, self._reporter, self._again = volunteer, reporter, again
        self._stopping, self._stack = stopping, stack
        self._run: Run | None = None
        self._loop: Loop | None = None
        """There when the peer has joined the run."""

    @property
    def loop(self) -> Loop:
        assert self._loop is not None, "load comes first"
        return self._loop

    def load(self, begin: Callable[[], Run], pauses: Pauses | None) -> None:
        """Join the run, load what it needs, and wait until training can begin."""
        volunteer, reporter, local = self._volunteer, self._reporter, self._volunteer.local
        prepare_torch(volunteer.threads)
        reporter.emit(events.Preparing("connecting"))
        run = self._run = self._stack.enter_context(begin())
        self._stopping.last_words = "\n".join(describe(self._left()))
        loading = look_at(run.spec, local, None if run.founding else run.folder.genesis)
        reporter.emit(loading)
        if not run.founding and run.folder.genesis.author != run.swarm.peer_id:
            check_own_files(run.spec, local)
        check_room(loading)
        check_before_loading(run.spec, local, volunteer.max_memory)
        task = open_task(run.spec, local)
        pauses = pauses or Pauses(volunteer.hours, open_probes(volunteer.pause_when, task.device))
        task.load_data(shard_seed(run.spec.digest, run.swarm.peer_id))
        _tell_data(task.read, reporter)
        memory = Memory(volunteer.max_memory, task.device)
        if local.batch_size is None:
            size = choose_batch_size(task, run.spec, memory)
            reporter.emit(events.Preparing(f"batches of {size} fit and pay"))
        torch.manual_seed(shard_seed(run.spec.digest, run.swarm.peer_id) % 2**63)  # dropout
        cores = _shared_cores(volunteer, task.device)
        loop = Loop(run, task, reporter, self._stopping.requested, pauses, memory, cores)
        self._stack.enter_context(_log_to(run, loop.warn))
        output.outlive(lambda error: log.info("%s", _without_output(error)))
        self._stack.callback(loop.close)
        self._stack.callback(reporter.close)
        reporter.emit(events.Preparing("founding the run" if run.founding else "joining the others"))
        loop.connect()
        self._loop = loop
        self._stopping.last_words = "\n".join(describe(self._left()))
        optimizer = loop.trainer.optimizer
        _introduce(run, task, optimizer, reporter)
        loop.begin()
        head, others = optimizer.head, len(optimizer.exchange.peers)
        reporter.emit(events.Training(head.height, head.commit.hex(), head.state.hex(), others))

    def take_first_step(self) -> None:
        """Train one step; see `Loop.take_first_step`."""
        with self._training():
            self.loop.take_first_step()

    def train(self) -> None:
        """Train until the run is complete or somebody asks to stop."""
        with self._training():
            self.loop.train()
            self.loop.finish(FINISH_SECONDS if self.loop.is_complete else 0.0)

    @contextlib.contextmanager
    def _training(self) -> Iterator[None]:
        try:
            yield
        except TrainingError:
            log.exception("training can't go on")
            self.loop.forget()  # the optimizer's state may lead to the same error
            raise
        except AccessError:
            pass  # `loop.given_up` is raised in `end`, after this peer has saved
        except Exception:  # p2pd or the data are gone, or this is a bug of ours
            if self.loop.trainer.optimizer.vitals.steps or not self._stopping.requested():
                self.loop.rescue()  # but if the first step was interrupted, nothing is lost
            raise

    def end(self) -> None:
        """Save, and say goodbye."""
        self.loop.save()
        self.say_goodbye()
        if self.loop.given_up is not None:
            raise self.loop.given_up

    def say_goodbye(self) -> None:
        """The last event. The log gets the last words, too, and standard error if standard output is gone."""
        last = self._left() if self._loop is None or self._run is None else self._stopped(self._run, self._loop)
        self._reporter.emit(last)
        for line in describe(last):
            log.info("%s", line.strip())
            if output.is_gone():
                print(line, file=sys.stderr)

    def _resume(self, run: Run) -> str:
        return shlex.join(["p2ptrain", "peer", str(run.folder.path), *self._again])

    def _left(self) -> events.Left:
        if self._run is None or not self._run.has_folder:
            return events.Left("", "")
        return events.Left(str(self._run.folder.path), self._resume(self._run))

    def _stopped(self, run: Run, loop: Loop) -> events.Stopped:
        optimizer = loop.trainer.optimizer
        head = optimizer.head
        complete, shut_out = optimizer.is_complete, isinstance(loop.given_up, AccessError)
        return events.Stopped(
            reason="the run is complete" if complete else "shut out" if shut_out else "stopped",
            height=head.height,
            commit=head.commit.hex(),
            state=head.state.hex(),
            steps=optimizer.vitals.steps,
            seconds=round(loop.seconds, 3),
            folder=str(run.folder.path),
            resume="" if complete or shut_out else self._resume(run),
            sent=accounts(run),
            refused=dict(optimizer.exchange.refused),
        )


def _tell_data(read: Tally, reporter: Reporter) -> None:
    """Tell what was read and what was left out; nothing for data that are not in rows."""
    if read.rows:
        left_out = {fault.reason: count for fault, count in read.left_out.items()}
        told = tuple(read.told)
        reporter.emit(events.DataRead(read.rows, read.used, read.is_whole, left_out, read.replaced, told))


def _shared_cores(volunteer: Volunteer, device: torch.device) -> Cores | None:
    """What adapts the number of CPU threads; None if the volunteer fixed it, the model is compiled, or a GPU trains."""
    if volunteer.threads is not None or volunteer.compile or device.type != "cpu":
        return None
    most = torch.get_num_threads()
    try:
        return Cores(most, psutil.cpu_count() or most, OthersShare())
    except Exception as error:  # of psutil: some containers hide other processes, and the system's times
        log.info("this system does not tell what others use, so training always takes %d threads: %s", most, error)
        return None


def prepare_torch(threads: int | None) -> None:
    """Set up torch and transformers in this process; `threads` None leaves the number of CPU threads to torch."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _introduce(run: Run, task: Task, optimizer: SharedOptimizer, reporter: Reporter) -> None:
    device, exchange = optimizer.vitals.device, optimizer.exchange
    log.info("p2ptrain %s, run %s, peer %s on %s", version(), short(run.id), run.swarm.peer_id, device)
    reporter.emit(
        events.Started(
            run_name=run.spec.run.name,
            run=run.id.hex(),
            peer=run.swarm.peer_id,
            invite="" if run.spec.is_private else str(run.invite()),
            invite_with=_invite_command(run),
            folder=str(run.folder.path),
            device=device,
            parameters=sum(parameter.numel() for parameter in task.model.parameters() if parameter.requires_grad),
            held_out=task.held_out_digest.hex(),
            founded=run.founding,
        )
    )
    own, founders = task.held_out_digest, run.folder.genesis.held_out
    if own != founders:
        text = (
            f"the held-out text of this peer ({short(own)}) differs from the founder's ({short(founders)}), for "
            "example because the Python version differs; so the held-out losses of this peer can't be compared with "
            "those of others"
        )
        reporter.emit(events.Warned(text))
    reporter.watch(run.swarm.peer_id, lambda: [exchange.own_presence, *exchange.peers.values()])


def _invite_command(run: Run) -> str:
    """The command that an owner types to invite: with the run's name if it stands for this folder, else the path."""
    if not run.spec.is_private or run.swarm.peer_id not in owners_of(run.folder.genesis, run.spec):
        return ""
    named = run.folder.path
    with contextlib.suppress(StorageError):
        if find_folder(Path(run.spec.run.name), default_home()) == run.folder.path:
            named = Path(run.spec.run.name)
    return f"p2ptrain invite {shlex.quote(str(named))}"


def accounts(run: Run) -> dict[str, int]:
    """Bytes sent, by purpose: each purpose of a blob, "gossip", and "calls" for all other calls."""
    node, blobs = run.swarm.node.sent, dict(run.blobs.sent)
    calls = node.total() - node["gossip"] - sum(blobs.values())  # requests for blobs, and refusals, are calls, too
    return {**blobs, "gossip": node["gossip"], "calls": calls}


@contextlib.contextmanager
def _log_to(run: Run, warn: Callable[[str], None]) -> Iterator[None]:
    """While the block lasts, write this process's log to the run folder and hand its warnings to `warn`."""
    handlers = (_LogFile(run, warn), _Shown(warn))
    logger = logging.getLogger("p2ptrain")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


class _LogFile(logging.handlers.MemoryHandler):
    """log.txt in the run folder. A founder has no folder before its model is loaded; until then, lines wait here."""

    def __init__(self, run: Run, warn: Callable[[str], None]) -> None:
        super().__init__(capacity=0)
        self._run, self._warn = run, warn

    def shouldFlush(self, record: logging.LogRecord) -> bool:
        if self.target is None and self._run.has_folder:
            self.target = LogFile(self._run.folder.log, OLD_LOGS, self._warn)
            self.target.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        return self.target is not None

    def close(self) -> None:
        file = self.target
        super().close()
        if file is not None:
            file.close()


class _Shown(logging.Handler):
    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        self._warn(record.getMessage())
