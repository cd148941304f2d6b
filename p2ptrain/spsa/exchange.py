"""One peer's part in a one-byte run, as its trainer sees it.

The trainer's thread says what it has measured, reads `view`, an immutable picture of what stands, and finds the records
behind it in the ledger; the network thread (`shell`) does the rest. Neither waits for the other.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from p2ptrain.run import PeerId
from p2ptrain.spsa.batch import FIRST, SESSION_BYTES, Batch
from p2ptrain.spsa.marks import Due
from p2ptrain.spsa.replica import Piece
from p2ptrain.spsa.shell import Shell
from p2ptrain.spsa.state import MasterState
from p2ptrain.spsa.view import View
from p2ptrain.state.logs import Log
from p2ptrain.state.run import Run
from p2ptrain.swarm import Presence, Vitals, monotonic

WAIT_SECONDS = 0.5
CLOSE_SECONDS = 10.0


class Exchange:
    """Made, used and closed by the trainer's thread.

    Args:
        report: what the trainer says of itself; called on the network thread.
        tell: called on the network thread with a name and facts of what happened.
    """

    def __init__(self, run: Run, report: Callable[[], Vitals], tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._run, self._swarm, self._method = run, run.swarm, run.spec.spsa
        self._changed = threading.Condition()
        self._shell = Shell(run, report, self._show, tell)
        self.view: View
        self.log = Log(self._swarm.peer_id, secrets.token_bytes(SESSION_BYTES))
        """This peer's own, new at every start: an index is never used twice, whatever a crash or a backup brings."""
        self._said, self._last = 0, FIRST
        self._open, self._open_clock, self._open_since = bytearray(), 0, 0.0

    def _show(self, view: View) -> None:
        with self._changed:
            self.view = view
            self._changed.notify_all()

    def start(self, base: MasterState, stop: Callable[[], bool]) -> MasterState | None:
        """Resume, found or join the run; `base` is how this peer would begin it.

        Returns:
            The state to start from; None if `stop` said so before there was one.
        """
        starting = self._swarm.submit(self._shell.start(base))
        while not starting.done() and not stop():
            concurrent.futures.wait([starting], WAIT_SECONDS)
        if starting.done():
            return starting.result()
        starting.cancel()
        return None

    # What this peer measures -----------------------------------------------------------------------------------------

    @property
    def measured(self) -> int:
        """Records of this peer's own log, those included that wait to be signed: the next one's index."""
        return self._said + len(self._open)

    def say(self, code: int, clock: int) -> None:
        """Add a record to this peer's log; it is signed and sent with others, at latest after the spec's time.

        Args:
            clock: records applied when it was measured. A batch has one clock, its first record's.
        """
        if not self._open:
            self._open_clock, self._open_since = clock, monotonic()
        self._open += code.to_bytes(1, signed=True)
        if len(self._open) >= self._method.flush_records:
            self.flush()
        else:
            self.flush_if_due()

    def flush_if_due(self) -> None:
        if self._open and monotonic() - self._open_since >= self._method.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Sign what waits, write it to disk, then send it.

        Raises:
            StorageError: the disk is full; nothing was sent.
        """
        if not self._open:
            return
        batch = Batch(self.log, self._said, self._open_clock, bytes(self._open))
        batch = batch.signed(self._run.id, self._last, self._swarm.key)
        self._shell.archive.keep([batch])
        self._said, self._last, self._open = batch.stop, batch.digest, bytearray()
        self._swarm.loop.call_soon_threadsafe(lambda: self._shell.spawn(self._shell.say(batch)))

    def pieces(self, log: Log, start: int, stop: int) -> Iterable[Piece]:
        """See `Records`: what is on disk, and of this peer's own log what waits to be signed."""
        on_disk = min(stop, self._said) if log == self.log else stop
        if start < on_disk:
            yield from self._shell.archive.pieces(log, start, on_disk)
        if log == self.log and stop > self._said:
            yield Piece(self._said, bytes(self._open), self._open_clock)

    def standing(self) -> dict[Log, int]:
        """Records that count now, those of this peer included that wait to be sent."""
        standing = dict(self.view.standing)
        if not self.view.revoked:
            standing[self.log] = self.measured
        return standing

    # Marks -----------------------------------------------------------------------------------------------------------

    @property
    def due(self) -> Due | None:
        """A mark that a copy of the weights has to be brought to."""
        return self._shell.marks.due

    def reach(self, due: Due, state: MasterState) -> None:
        """Hand over that copy."""
        self._shell.marks.due = None
        standing = self.view.standing
        work = self._shell.marks.reach
        self._swarm.loop.call_soon_threadsafe(lambda: self._shell.spawn(work(due, state, standing)))

    def save(self, state: MasterState) -> None:
        """Keep a copy of the weights as a snapshot.

        Raises:
            StorageError: the disk is full.
        """
        self._shell.snapshots.save(state)
        self._shell.marks.state = state.digest

    # The others ------------------------------------------------------------------------------------------------------

    def wait(self, until: Callable[[View], bool], timeout: float) -> bool:
        """Wait for the view to satisfy `until`, asked whenever it or the peers change; False after `timeout` s."""
        with self._changed:
            return self._changed.wait_for(lambda: until(self.view), timeout)

    def beat(self) -> None:
        """Send a heartbeat now, e.g. because this peer's phase has changed."""
        self._swarm.loop.call_soon_threadsafe(lambda: self._shell.spawn(self._shell.membership.beat()))

    def peers_ready(self) -> int:
        """Peers, this one included, that are ready to train or training."""
        return len(self._shell.trainers())

    def everyone_agrees(self) -> bool:
        """Whether every live peer has said that the same records stand for it, and measures no more."""
        return all(
            presence.commit == self.view.digest and presence.phase not in ("ready", "training")
            for presence in self.peers.values()
        )

    @property
    def peers(self) -> Mapping[PeerId, Presence]:
        """The other live peers."""
        return self._shell.membership.live

    @property
    def own_presence(self) -> Presence:
        return self._shell.membership.presence()

    @property
    def refused(self) -> Mapping[str, int]:
        """Messages and batches of others that were not used, by reason."""
        return dict(sorted((self._shell.refused + self._shell.membership.dropped).items()))

    def close(self) -> None:
        """Say goodbye and stop."""
        with contextlib.suppress(TimeoutError):
            self._swarm.run(self._shell.stop(), CLOSE_SECONDS)
        self._shell.end()
