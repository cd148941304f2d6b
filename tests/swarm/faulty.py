"""A `p2ptrain` process with one thing wrong: python -m tests.swarm.faulty FAULT ARGUMENT…

Each fault replaces one step of the real program, before it starts.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any


def clock_off() -> None:
    """This machine's clock is an hour fast. Must come before anything imports the time."""
    real = time.time
    time.time = lambda: real() + 3600  # type: ignore[assignment]


def slow() -> None:
    """Every inner step takes four times as long."""
    from p2ptrain.tasks.task import Task

    real = Task.loss

    def loss(self: Any, index: int) -> Any:
        began = time.monotonic()
        result = real(self, index)
        time.sleep(3 * 2 * (time.monotonic() - began))  # the backward pass takes about as long again
        return result

    Task.loss = loss  # type: ignore[method-assign]


def steady() -> None:
    """Every inner step takes 20 ms longer, so that rounds take their time."""
    from p2ptrain.tasks.task import Task

    real = Task.loss_on

    def loss_on(self: Any, rows: Any) -> Any:
        time.sleep(0.02)
        return real(self, rows)

    Task.loss_on = loss_on  # type: ignore[method-assign]


def zeros() -> None:
    """Learns nothing: all its contributions are zeros."""
    from p2ptrain.diloco.optimizer import StreamingDiLoCo

    StreamingDiLoCo.learning_rate = lambda self: 0.0  # type: ignore[method-assign]


def nan() -> None:
    """The loss becomes NaN after 30 steps."""
    from p2ptrain.tasks.task import Task

    real = Task.loss

    def loss(self: Any, index: int) -> Any:
        result = real(self, index)
        return result * float("nan") if index >= 30 else result

    Task.loss = loss  # type: ignore[method-assign]


def make_way() -> None:
    """Pauses at once while there is a file `others-work` in its home, and goes on at once when there is none."""
    from pathlib import Path

    from p2ptrain.peer import pausing, session

    pausing.BUSY_SECONDS = pausing.QUIET_SECONDS = 0.0
    pausing.PROBE_SECONDS = 0.1
    session.open_probes = lambda causes, device: {"file": lambda: "others work" * Path("others-work").exists()}


def contradict() -> None:
    """Signs two batches for the place after its first 64 records, and says both."""
    from dataclasses import replace

    from p2ptrain.spsa.shell import Shell

    real = Shell.say

    async def say(self: Any, batch: Any) -> None:
        before = self.book.last_words(batch.log, batch.start)
        await real(self, batch)
        if batch.start >= 64 and not done:
            done.append(True)
            other = replace(batch, codes=bytes([1 + batch.codes[0] % 100, *batch.codes[1:]]), signature=b"")
            await self.membership.publish(other.signed(self._run.id, before, self._swarm.key))

    done: list[bool] = []
    Shell.say = say  # type: ignore[method-assign]
    steady()


def lossy() -> None:
    """What this peer says of its records is lost, said twice or said up to 20 s later, a quarter of it each."""
    import asyncio
    import random

    from p2ptrain.swarm import Membership

    real = Membership.publish

    async def publish(self: Any, record: Any) -> None:
        fate = random.randrange(4) if record.kind == "batch/1" else 3
        if fate == 0:
            return
        if fate == 1:
            await real(self, record)
        if fate == 2:
            await asyncio.sleep(random.uniform(0.0, 20.0))
        await real(self, record)

    Membership.publish = publish  # type: ignore[method-assign]


LATE_SECONDS = 120.0


def late() -> None:
    """For two minutes nobody gets this peer's own records, whether they ask or listen."""
    from p2ptrain.spsa.shell import Shell
    from p2ptrain.swarm import Membership

    publish, ends, began = Membership.publish, Shell._ends, time.monotonic()

    def is_late() -> bool:
        return time.monotonic() - began < LATE_SECONDS

    async def publish_later(self: Any, record: Any) -> None:
        if not (is_late() and record.kind == "batch/1"):
            await publish(self, record)

    def ends_without(self: Any) -> Any:
        mine = self._swarm.peer_id
        return {log: end for log, end in ends(self).items() if not (is_late() and log.author == mine)}

    Membership.publish = publish_later  # type: ignore[method-assign]
    Shell._ends = ends_without  # type: ignore[method-assign]


FLOOD = 200


def flood() -> None:
    """Says 200 records that it has not measured for each that it has."""
    import random

    from p2ptrain.spsa.exchange import Exchange

    real = Exchange.say

    def say(self: Any, code: int, clock: int) -> None:
        real(self, code, clock)
        for _ in range(FLOOD):
            real(self, random.choice((-1, 1)), clock)

    Exchange.say = say  # type: ignore[method-assign]


def die_before_broadcast() -> None:
    """Killed with a batch on its disk that nobody has heard of."""
    from p2ptrain.spsa.shell import Shell

    real = Shell.say

    async def say(self: Any, batch: Any) -> None:
        if batch.start >= 64:
            os.kill(os.getpid(), signal.SIGKILL)
        await real(self, batch)

    Shell.say = say  # type: ignore[method-assign]
    steady()


def die_before_commit() -> None:
    """Killed as leader, with the round closed but nothing said."""
    from p2ptrain.diloco.shell import Shell

    async def propose(self: Any, proposal: Any) -> None:
        if proposal.height < 6:
            await real(self, proposal)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    real = Shell._propose
    Shell._propose = propose  # type: ignore[method-assign]


def die_after_commit() -> None:
    """Killed as leader, right after the commit went out."""
    from p2ptrain.swarm import Membership

    real = Membership.publish

    async def publish(self: Any, record: Any) -> None:
        await real(self, record)
        if record.kind == "commit/1" and record.height >= 6:
            os.kill(os.getpid(), signal.SIGKILL)

    Membership.publish = publish  # type: ignore[method-assign]


def die_while_serving() -> None:
    """Killed as contributor, when somebody begins to fetch its bytes."""
    from p2ptrain.state import blobs

    real = blobs.Blob.chunk

    def chunk(self: Any, index: int) -> Any:
        served[0] += self.purpose == "contribution"
        if served[0] > 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, index)

    served = [0]
    blobs.Blob.chunk = chunk  # type: ignore[method-assign]


def flip_a_bit() -> None:
    """One number of the global state changes unseen after height 5."""
    from p2ptrain.diloco import outer

    real = outer.apply_commit

    def apply_commit(state: Any, commit: Any, payloads: Any, spec: Any) -> Any:
        result = real(state, commit, payloads, spec)
        if commit.height == 5 and not done:
            from dataclasses import replace

            from p2ptrain.diloco.state import Fragment, HashedVector

            part = result.state.fragments[0]
            values = part.theta.values.copy()
            values[0] += 1
            broken = Fragment(HashedVector(values), part.momentum)
            done.append(True)
            result = replace(result, state=replace(result.state, fragments=(broken, *result.state.fragments[1:])))
        return result

    done: list[bool] = []
    outer.apply_commit = apply_commit


def disk_full() -> None:
    """From height 12 on no file of this process can grow beyond a few kilobytes."""
    import resource

    from p2ptrain.diloco.replica import Replica

    real = Replica.apply

    def apply(self: Any, commit: Any) -> Any:
        if commit.height >= 12:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        return real(self, commit)

    Replica.apply = apply  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__: fault
    for fault in (
        clock_off,
        slow,
        steady,
        zeros,
        nan,
        die_before_commit,
        die_after_commit,
        die_while_serving,
        flip_a_bit,
        disk_full,
        contradict,
        lossy,
        late,
        flood,
        die_before_broadcast,
        make_way,
    )
}


if __name__ == "__main__":
    for name in sys.argv.pop(1).split("+"):
        FAULTS[name]()
    from p2ptrain.cli import main

    main()
