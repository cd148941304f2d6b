"""Where a peer's two threads meet, whatever the method.

The trainer's thread hands work over, and reads `view`, an immutable picture that the network thread replaces whole.
The network thread (the method's shell) does the rest, and reads `vitals`, which the trainer's thread replaces whole.
Neither thread waits for the other unless the trainer asks for it (`wait`).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from p2ptrain.run import PeerId
from p2ptrain.state.run import Run
from p2ptrain.swarm import Membership, Phase, Presence, Vitals, monotonic

WAIT_SECONDS = 0.5
CLOSE_SECONDS = 10.0
LOSS_SMOOTHING = 0.05

View = TypeVar("View")
Result = TypeVar("Result")


class NetworkSide(Protocol):
    """What an exchange needs from its method's shell. `membership` and `refused` may be read on any thread."""

    membership: Membership

    @property
    def refused(self) -> Mapping[str, int]:
        """Others' messages that were not used, counted by reason."""

    def trainers(self) -> frozenset[PeerId]:
        """Peers that train or are ready to train, this one included."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        """Start background work. Called on the network thread."""

    async def beat(self) -> None:
        """Send a heartbeat now."""

    async def stop(self) -> None:
        """Say goodbye. Nothing is heard or done afterwards."""

    def save_and_end(self) -> None:
        """After `stop`, on any thread: write what must not be lost, and end the worker threads."""


class Exchange(Generic[View]):
    """One peer's part in a run, as its trainer sees it. The trainer's thread makes, uses and closes it.

    `vitals` is what this peer says about itself at first. `stop` is asked whenever the trainer would wait for others;
    once it returns True, nothing waits any more.
    """

    view: View
    """What the network thread has shown last."""
    _shell: NetworkSide
    """The method's."""

    def __init__(self, run: Run, vitals: Vitals, stop: Callable[[], bool]) -> None:
        self._run, self._swarm, self._stop = run, run.swarm, stop
        self._changed = threading.Condition()
        self.vitals = vitals
        """What this peer says about its training. Only the trainer's thread replaces it."""

    def _show(self, view: View) -> None:
        """Replace the view; the shell calls this on the network thread."""
        with self._changed:
            self.view = view
            self._changed.notify_all()

    def _await(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Run work on the network thread and wait for it. None if `stop` returns True before the work is done."""
        running = self._swarm.submit(work)
        while not running.done() and not self._stop():
            concurrent.futures.wait([running], WAIT_SECONDS)
        if running.done():
            return running.result()
        running.cancel()
        return None

    def _hand_over(self, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin work on the network thread. The coroutine is made there, so that none is left over when the exchange is
        closing."""
        self._swarm.loop.call_soon_threadsafe(lambda: self._shell.spawn(begin()))

    def wait(self, until: Callable[[View], bool], timeout: float) -> bool:
        """Wait until the view satisfies `until`, which is asked whenever the view or the peers change. Returns False
        after `timeout` seconds, or soon after `stop` returns True."""
        deadline = monotonic() + timeout
        while True:
            left = deadline - monotonic()
            with self._changed:
                if self._changed.wait_for(lambda: until(self.view), max(0.0, min(left, WAIT_SECONDS))):
                    return True
            if left <= WAIT_SECONDS or self._stop():
                return False

    def wait_or_stop(self, until: Callable[[View], bool]) -> None:
        """Wait until the view satisfies `until`, or `stop` returns True. Raises P2PTrainError if the network or the
        disk has failed for good."""
        while not self.wait(until, WAIT_SECONDS) and not self._stop():
            self._swarm.check()

    def enter(self, phase: Phase) -> None:
        """Change this peer's phase, and tell the others at once."""
        if phase != self.vitals.phase:
            self.vitals = replace(self.vitals, phase=phase)
            self._hand_over(self._shell.beat)

    def count_step(self, tokens: int, loss: float | None, tokens_per_second: float) -> None:
        """Add a step to the vitals, and its loss to the smoothed one if it is finite."""
        smoothed = self.vitals.loss
        if loss is not None and math.isfinite(loss):
            smoothed = loss if smoothed is None else smoothed + LOSS_SMOOTHING * (loss - smoothed)
        steps, tokens = self.vitals.steps + 1, self.vitals.tokens + tokens
        self.vitals = replace(
            self.vitals, steps=steps, tokens=tokens, loss=smoothed, tokens_per_second=tokens_per_second
        )

    def peers_ready(self) -> int:
        """Number of peers that train or are ready to train, this one included."""
        return len(self._shell.trainers())

    @property
    def peers(self) -> Mapping[PeerId, Presence]:
        """The other live peers."""
        return self._shell.membership.live

    @property
    def own_presence(self) -> Presence:
        """What this peer's next heartbeat would say."""
        return self._shell.membership.presence()

    @property
    def refused(self) -> Mapping[str, int]:
        """Others' messages that were not used, counted by reason."""
        return dict(sorted(self._shell.refused.items()))

    def close(self) -> None:
        """Say goodbye, stop, and write what must not be lost. Raises StorageError if the disk is full; earlier
        snapshots are untouched."""
        with contextlib.suppress(TimeoutError):
            self._swarm.run(self._shell.stop(), CLOSE_SECONDS)
        self._shell.save_and_end()


def trainers_of(membership: Membership, me: PeerId, phase: Phase) -> frozenset[PeerId]:
    """Peers that train or are ready to train: those live ones that say so, and this one if it is in such a phase."""
    training = ("ready", "training")
    others = {peer for peer, seen in membership.live.items() if seen.phase in training}
    return frozenset(others | {me} if phase in training else others)
