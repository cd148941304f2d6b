"""This peer's master weights, and moving them: the one function behind training, catching up, cuts, marks, replays.

move: from one position to another, by adding the records that lie between and taking back those that lie beyond
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from p2ptrain.run import Digest, SPSAMethod
from p2ptrain.spsa.byte import QuantaTable, rate_step
from p2ptrain.spsa.kernels import kernels_for
from p2ptrain.spsa.position import Position
from p2ptrain.spsa.signs import seed_key
from p2ptrain.spsa.state import MasterState
from p2ptrain.state.logs import Log

RECORDS_AT_ONCE = 256
"""Of one call of the kernels."""

Row = NDArray[np.int32]
"""The quanta of one record, (exponents)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Records of a log that lie together and share a clock."""

    start: int
    codes: bytes
    """int8."""
    clock: int

    def within(self, start: int, stop: int) -> int:
        """How many of them lie from `start` to `stop`."""
        return max(0, min(stop, self.start + len(self.codes)) - max(start, self.start))


class Records(Protocol):
    """Where the records of logs are found."""

    def pieces(self, log: Log, start: int, stop: int) -> Iterable[Piece]:
        """Records `start` to `stop`, in pieces that may reach beyond either.

        Raises:
            LedgerError: they are not all here.
        """


class Replica:
    """Master weights on a device, and the position that they are at. One thread at a time may use it.

    Args:
        method: the run's learning rate, clip and schedule.
    """

    def __init__(self, run: Digest, method: SPSAMethod, state: MasterState, device: torch.device) -> None:
        self._run, self._method, self.layout, self._frozen = run, method, state.layout, state.frozen
        self._kernels = kernels_for(device)
        self._master = torch.tensor(state.master, device=device)
        self._kinds, self._steps = state.layout.kinds().to(device), state.layout.steps()
        self._table = QuantaTable(method, state.layout.exponents)
        self._waiting = _Waiting(len(state.layout.exponents))
        self.position: Position = dict(state.position)

    @classmethod
    def base(cls, run: Digest, method: SPSAMethod, state: MasterState) -> Replica:
        """On the host, to compute states from."""
        return cls(run, method, state, torch.device("cpu"))

    def move(
        self, target: Position, records: Records, progress: Callable[[int, int], None] = lambda done, in_all: None
    ) -> None:
        """Add and take back records until the weights are at `target`; exact, whatever the way.

        Args:
            progress: called with (records done, in all).

        Raises:
            LedgerError: a record is missing; `position` says how far this has come.
        """
        spans = list(_between(self.position, target))
        in_all, done = sum(stop - start for _, start, stop, _ in spans), 0
        for log, start, stop, sign in spans:
            # All of them before the first is used: what is half taken back would be no position.
            for piece in list(records.pieces(log, start, stop)):
                for index, row in self._rows(piece, start, stop):
                    self._waiting.put(seed_key(self._run, log.author, log.session, index), sign * row)
                    if len(self._waiting) == RECORDS_AT_ONCE:
                        self._add()
                done += piece.within(start, stop)
                progress(done, in_all)
            self.position = {**self.position, log: stop if sign > 0 else start}
        self.position = {log: count for log, count in self.position.items() if count}

    def _rows(self, piece: Piece, start: int, stop: int) -> Iterator[tuple[int, Row]]:
        """(index, quanta) of a piece's records from `start` to `stop`, without those that say zero."""
        step = rate_step(self._method, piece.clock)
        for index, code in enumerate(np.frombuffer(piece.codes, dtype=np.int8).tolist(), piece.start):
            if code and start <= index < stop:
                yield index, self._table.row(code, step)

    def _add(self) -> None:
        self._kernels.add(self._master, self._kinds, *self._waiting.take())

    def perturb(self, key: int, amplitude: float, out: torch.Tensor) -> None:
        """Write the weights, moved by `amplitude` along a perturbation, to a flat vector on the same device."""
        given = self._master, self._kinds, self._steps, key, amplitude, out
        self._kernels.perturb(*given, *self._waiting.take())

    def weights(self, out: torch.Tensor) -> None:
        """Write the weights themselves."""
        self.perturb(0, 0.0, out)

    def state(self) -> MasterState:
        """A copy of what the weights are now, on the host."""
        self._add()
        master = self._master.to("cpu", copy=True).numpy()
        return MasterState(self.layout, dict(self.position), master, self._frozen)

    @property
    def elements(self) -> int:
        """Of the flat vector, with what pads it."""
        return self._master.numel()


class _Waiting:
    """Records that are in the position and not yet in the weights, so that many share a pass over these, and the last
    few the pass that reads them anyway."""

    def __init__(self, kinds: int) -> None:
        self._kinds = kinds
        self._keys: list[int] = []
        self._rows: list[Row] = []

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, key: int, row: Row) -> None:
        self._keys.append(key)
        self._rows.append(row)

    def take(self) -> tuple[list[int], torch.Tensor]:
        """Keys and quanta, int32 (records, kinds); none are left."""
        keys, rows = self._keys, np.array(self._rows, dtype=np.int32).reshape(len(self._keys), self._kinds)
        self._keys, self._rows = [], []
        return keys, torch.from_numpy(rows)


def _between(applied: Position, target: Position) -> Iterator[tuple[Log, int, int, int]]:
    """(log, start, stop, ±1): what to take back, then what to add, in the order of logs."""
    logs = sorted({*applied, *target})
    for log in logs:
        if applied.get(log, 0) > target.get(log, 0):
            yield log, target.get(log, 0), applied[log], -1
    for log in logs:
        if target.get(log, 0) > applied.get(log, 0):
            yield log, applied.get(log, 0), target[log], 1
