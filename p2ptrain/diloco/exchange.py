"""One peer's part in the rounds of a run, as its trainer sees it.

Two threads meet here: the trainer's calls `contribute`, `wait` and reads `view`, an immutable picture of the head that
is replaced whole; the network thread (`shell`) does the rest. Neither waits for the other unless the spec says so
(overlap = n).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from p2ptrain.diloco.chain import Contribution, Head
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.shell import Shell
from p2ptrain.diloco.state import GlobalState
from p2ptrain.diloco.view import View
from p2ptrain.run import Digest, PeerId, digest_of
from p2ptrain.state.run import Run
from p2ptrain.swarm import Presence, Vitals

WAIT_SECONDS = 0.5
CLOSE_SECONDS = 10.0


class Exchange:
    """Made, used and closed by the trainer's thread.

    Args:
        report: what the trainer says of itself; called on the network thread.
        tell: called on the network thread with a name and facts of what happened.
    """

    def __init__(
        self,
        run: Run,
        layout: Layout,
        report: Callable[[], Vitals],
        tell: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._run, self._swarm = run, run.swarm
        self._changed = threading.Condition()
        self._shell = Shell(run, layout, report, self._show, tell)
        self.view: View

    def _show(self, view: View) -> None:
        with self._changed:
            self.view = view
            self._changed.notify_all()

    def start(self, base: GlobalState, stop: Callable[[], bool]) -> None:
        """Resume, found or join the run; `base` is the state at height 0 as this peer would build it.

        Returns when there is a state to start from, or `stop` says so; `view.caught_up` tells when it is the swarm's.
        """
        self.view = View(base)
        starting = self._swarm.submit(self._shell.start(self.view))
        while not starting.done() and not stop():
            concurrent.futures.wait([starting], WAIT_SECONDS)
        if starting.done():
            starting.result()
        starting.cancel()

    def contribute(self, height: int, base: Digest, data: bytes, tokens: int, steps: int) -> Digest:
        """Offer an encoded pseudo-gradient to the round of `height`; returns its digest at once."""
        payload = digest_of(data)
        offer = Contribution(
            author=self._swarm.peer_id,
            run=self._run.id,
            height=height,
            base=base,
            payload=payload,
            size=len(data),
            tokens=tokens,
            steps=steps,
        ).signed(self._swarm.key)
        self._swarm.loop.call_soon_threadsafe(self._shell.spawn, self._shell.offer(offer, data))
        return payload

    def wait(self, until: Callable[[View], bool], timeout: float) -> bool:
        """Wait for the view to satisfy `until`, asked whenever it or the peers change; False after `timeout` s."""
        with self._changed:
            return self._changed.wait_for(lambda: until(self.view), timeout)

    def flush(self) -> None:
        """Send a heartbeat now, e.g. because this peer's phase has changed."""
        self._swarm.loop.call_soon_threadsafe(self._shell.spawn, self._shell.beat())

    @property
    def hurry(self) -> int:
        """The height for which others wait: contribute what there is."""
        return self._shell.hurry

    def peers_ready(self) -> int:
        """Peers, this one included, that are ready to train or training."""
        return len(self._shell.trainers())

    def everyone_is_at(self, head: Head) -> bool:
        """Whether every live peer has said that it is at this head."""
        return all(presence.commit == head.commit for presence in self.peers.values())

    @property
    def peers(self) -> Mapping[PeerId, Presence]:
        """The other live peers."""
        return self._shell.membership.live

    @property
    def own_presence(self) -> Presence:
        return self._shell.membership.presence()

    @property
    def refused(self) -> Mapping[str, int]:
        """Others' messages that were not used, by reason."""
        return dict(sorted(self._shell.membership.dropped.items()))

    def close(self) -> None:
        """Write a snapshot of the head, say goodbye and stop.

        Raises:
            StorageError: the disk is full; what was saved before is untouched.
        """
        with contextlib.suppress(TimeoutError):
            self._swarm.run(self._shell.stop(), CLOSE_SECONDS)
        self._shell.save_and_end()
