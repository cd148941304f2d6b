"""One peer's part in a one-byte run, as its trainer sees it. The trainer adds records to its log, reads in the view
which records count, and reads these from the ledger. `method.exchange` says how the two threads meet.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from p2ptrain.method import Exchange as SharedExchange
from p2ptrain.method import Tell
from p2ptrain.spsa.marks import Due
from p2ptrain.spsa.messages import FIRST, LogBatch
from p2ptrain.spsa.position import SESSION_BYTES
from p2ptrain.spsa.replica import Piece
from p2ptrain.spsa.shell import Shell
from p2ptrain.spsa.state import MasterState
from p2ptrain.spsa.view import View
from p2ptrain.state.logs import Log
from p2ptrain.state.run import Run
from p2ptrain.swarm import Vitals, monotonic


class Exchange(SharedExchange[View]):
    """See `method.Exchange`."""

    _shell: Shell

    def __init__(self, run: Run, vitals: Vitals, tell: Tell, stop: Callable[[], bool]) -> None:
        super().__init__(run, vitals, stop)
        self._method = run.spec.spsa
        self._shell = Shell(run, lambda: self.vitals, self._show, tell)
        self.log = Log(self._swarm.peer_id, secrets.token_bytes(SESSION_BYTES))
        """This peer's own log. It is a new one at every start, so that no index is used twice after a crash, or when a
        backup is restored."""
        self._said, self._last = 0, FIRST
        self._open, self._open_clock, self._open_since = bytearray(), 0, 0.0

    def start(self, base: MasterState) -> MasterState | None:
        """Resume, found or join the run. `base` is this peer's own base of the run.

        Returns the state to start from; None if `stop` returned True before there was one. Raises P2PTrainError: nobody
        to join, another model, no space on the disk.
        """
        return self._await(self._shell.start(base))

    # What this peer measures -----------------------------------------------------------------------------------------

    @property
    def measured(self) -> int:
        """The index of this peer's next record. Records that are not signed yet count."""
        return self._said + len(self._open)

    def say(self, code: int, clock: int) -> None:
        """Add a record to this peer's log. It is signed and sent in a batch, `method.flush_seconds` later at most.

        `clock` is the number of records in the weights at the measurement. A batch has the clock of its first record.
        Raises as `flush` does.
        """
        if not self._open:
            self._open_clock, self._open_since = clock, monotonic()
        self._open += code.to_bytes(1, signed=True)
        if len(self._open) >= self._method.flush_records:
            self.flush()
        else:
            self.flush_if_due()

    def flush_if_due(self) -> None:
        """`flush` if the oldest record has waited for `method.flush_seconds`."""
        if self._open and monotonic() - self._open_since >= self._method.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Sign the records that wait, write them to disk, then send them. Raises StorageError if the disk is full; then
        nothing was sent."""
        if not self._open:
            return
        batch = LogBatch(self.log, self._said, self._open_clock, bytes(self._open))
        batch = batch.signed(self._run.id, self._last, self._swarm.key)
        self._shell.archive.keep([batch])
        self._said, self._last, self._open = batch.stop, batch.digest, bytearray()
        self._hand_over(lambda: self._shell.say(batch))

    def pieces(self, log: Log, start: int, stop: int) -> Iterable[Piece]:
        """See `Records.pieces`. Records of this peer that are not signed yet are found, too."""
        on_disk = min(stop, self._said) if log == self.log else stop
        if start < on_disk:
            yield from self._shell.archive.pieces(log, start, on_disk)
        if log == self.log and stop > self._said:
            yield Piece(self._said, bytes(self._open), self._open_clock)

    def standing(self) -> dict[Log, int]:
        """The position of all records that count now. Records of this peer that are not signed yet count."""
        standing = dict(self.view.standing)
        if not self.view.revoked:
            standing[self.log] = self.measured
        return standing

    # Marks -----------------------------------------------------------------------------------------------------------

    @property
    def due(self) -> Due | None:
        """A mark to which a copy of the weights has to be moved: call `reach`."""
        return self._shell.marks.due

    def reach(self, due: Due, state: MasterState) -> None:
        """Hand over a copy of the weights. The network side moves it to the mark."""
        self._shell.marks.due = None
        standing = self.view.standing
        self._hand_over(lambda: self._shell.marks.reach(due, state, standing))

    def save(self, state: MasterState) -> None:
        """Keep a copy of the weights as a snapshot. See `Snapshots.save` for errors."""
        self._shell.snapshots.save(state)
        self._shell.marks.state = state.digest

    # The others ------------------------------------------------------------------------------------------------------

    def everyone_agrees(self) -> bool:
        """Whether the same records count for every live peer, and none of them measures any more."""
        seen = self.peers.values()
        return all(peer.commit == self.view.digest and peer.phase not in ("ready", "training") for peer in seen)
