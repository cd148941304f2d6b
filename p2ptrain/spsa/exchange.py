"""One peer's part in a one-byte run, as its trainer sees it: the trainer says what it has measured, reads the view of
what stands, and finds the records behind it in the ledger. See `method.exchange` for how the two threads meet.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from p2ptrain.method import Exchange as SharedExchange
from p2ptrain.method import Tell
from p2ptrain.spsa.batch import FIRST, SESSION_BYTES, Batch
from p2ptrain.spsa.marks import Due
from p2ptrain.spsa.replica import Piece
from p2ptrain.spsa.shell import Shell
from p2ptrain.spsa.state import MasterState
from p2ptrain.spsa.view import View
from p2ptrain.state.logs import Log
from p2ptrain.state.run import Run
from p2ptrain.swarm import Vitals, monotonic


class Exchange(SharedExchange[View]):
    """See `method.Exchange`.

    Args:
        tell: called on the network thread with a name and facts of what has happened.
    """

    _shell: Shell

    def __init__(self, run: Run, vitals: Vitals, tell: Tell, stop: Callable[[], bool]) -> None:
        super().__init__(run, vitals, stop)
        self._method = run.spec.spsa
        self._shell = Shell(run, lambda: self.vitals, self._show, tell)
        self.log = Log(self._swarm.peer_id, secrets.token_bytes(SESSION_BYTES))
        """This peer's own, new at every start: an index is never used twice, whatever a crash or a backup brings."""
        self._said, self._last = 0, FIRST
        self._open, self._open_clock, self._open_since = bytearray(), 0, 0.0

    def start(self, base: MasterState) -> MasterState | None:
        """Resume, found or join the run; `base` is how this peer would begin it.

        Returns:
            The state to start from; None if `stop` said so before there was one.
        """
        return self._await(self._shell.start(base))

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
        self._hand_over(lambda: self._shell.say(batch))

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
        self._hand_over(lambda: self._shell.marks.reach(due, state, standing))

    def save(self, state: MasterState) -> None:
        """Keep a copy of the weights as a snapshot.

        Raises:
            StorageError: the disk is full.
        """
        self._shell.snapshots.save(state)
        self._shell.marks.state = state.digest

    # The others ------------------------------------------------------------------------------------------------------

    def everyone_agrees(self) -> bool:
        """Whether every live peer has said that the same records stand for it, and measures no more."""
        return all(
            presence.commit == self.view.digest and presence.phase not in ("ready", "training")
            for presence in self.peers.values()
        )
