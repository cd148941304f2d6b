"""Where a peer's two threads meet, whatever the method.

The trainer's thread hands work over and reads `view`, an immutable picture that is replaced whole. The network thread
(the method's shell) does the rest. Neither thread waits for the other unless the trainer asks to (`wait`).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, Protocol, TypeVar

from p2ptrain.run import PeerId
from p2ptrain.state.run import Run
from p2ptrain.swarm import Membership, Phase, Presence

WAIT_SECONDS = 0.5
CLOSE_SECONDS = 10.0

View = TypeVar("View")
Result = TypeVar("Result")


class NetworkSide(Protocol):
    """What an exchange needs of its method's shell. `membership` and `refused` may be read on any thread."""

    membership: Membership

    @property
    def refused(self) -> Mapping[str, int]:
        """Others' messages that were not used, counted by reason."""

    def trainers(self) -> frozenset[PeerId]:
        """Who trains or is ready to, this peer included."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        """Start background work; on the network thread."""

    async def beat(self) -> None:
        """Send a heartbeat now."""

    async def stop(self) -> None:
        """Say goodbye; afterwards nothing is heard or done."""

    def save_and_end(self) -> None:
        """After `stop`, on any thread: write what has to last, and end the worker threads."""


class Exchange(Generic[View]):
    """One peer's part in a run, as its trainer sees it. The trainer's thread makes, uses and closes it."""

    view: View
    """What the network thread has shown last."""
    _shell: NetworkSide
    """The method's."""

    def __init__(self, run: Run) -> None:
        self._run, self._swarm = run, run.swarm
        self._changed = threading.Condition()

    def _show(self, view: View) -> None:
        """Replace the view; the shell calls this on the network thread."""
        with self._changed:
            self.view = view
            self._changed.notify_all()

    def _await(self, work: Coroutine[Any, Any, Result], stop: Callable[[], bool]) -> Result | None:
        """Run work on the network thread and wait for it; None if `stop` says True before the work is done."""
        running = self._swarm.submit(work)
        while not running.done() and not stop():
            concurrent.futures.wait([running], WAIT_SECONDS)
        if running.done():
            return running.result()
        running.cancel()
        return None

    def _hand_over(self, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have the network thread begin this work. The coroutine is made there, so that none is left over when the
        exchange is closing."""
        self._swarm.loop.call_soon_threadsafe(lambda: self._shell.spawn(begin()))

    def wait(self, until: Callable[[View], bool], timeout: float) -> bool:
        """Wait until the view satisfies `until`, which is asked whenever the view or the peers change; False after
        `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: until(self.view), timeout)

    def beat(self) -> None:
        """Send a heartbeat now, for example because this peer's phase has changed."""
        self._hand_over(self._shell.beat)

    def peers_ready(self) -> int:
        """Number of peers that train or are ready to, this one included."""
        return len(self._shell.trainers())

    @property
    def peers(self) -> Mapping[PeerId, Presence]:
        """The other live peers."""
        return self._shell.membership.live

    @property
    def own_presence(self) -> Presence:
        """What this peer says of itself."""
        return self._shell.membership.presence()

    @property
    def refused(self) -> Mapping[str, int]:
        """Others' messages that were not used, counted by reason."""
        return dict(sorted(self._shell.refused.items()))

    def close(self) -> None:
        """Write what has to last, say goodbye and stop.

        Raises:
            StorageError: the disk is full; what was saved before is untouched.
        """
        with contextlib.suppress(TimeoutError):
            self._swarm.run(self._shell.stop(), CLOSE_SECONDS)
        self._shell.save_and_end()


def trainers_of(membership: Membership, me: PeerId, phase: Phase) -> frozenset[PeerId]:
    """Who trains or is ready to: the live peers that say so, and this one if its phase is one of these."""
    training = ("ready", "training")
    others = {peer for peer, seen in membership.live.items() if seen.phase in training}
    return frozenset(others | {me} if phase in training else others)
