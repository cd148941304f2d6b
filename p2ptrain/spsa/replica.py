"""This peer's master weights, and the one function that moves them from position to position.

    master += Σ quanta(record) · z(record)          over the records to add, minus the same over those to take back

Training, catching up, cuts, marks and replays all use `Replica.move`.
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
"""Records in one call of the kernels."""
HOST = torch.device("cpu")

Progress = Callable[[int, int], None]
"""Called with the number of records done, and of all that have to be done."""
Row = NDArray[np.int32]
"""The quanta of one record: (exponents)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring records of a log that share a clock."""

    start: int
    codes: bytes
    """One int8 code for each record."""
    clock: int

    def within(self, start: int, stop: int) -> int:
        """The number of these records from index `start` to `stop` (exclusive)."""
        return max(0, min(stop, self.start + len(self.codes)) - max(start, self.start))


class Records(Protocol):
    """Where a replica finds records."""

    def pieces(self, log: Log, start: int, stop: int) -> Iterable[Piece]:
        """Records `start` to `stop` (exclusive) of a log. The first and the last piece may hold more than these.

        Raises:
            LedgerError: not all of these records are here.
        """


class Replica:
    """Master weights on a device, and their position. It begins at `state`. One thread at a time may use it."""

    def __init__(self, run: Digest, method: SPSAMethod, state: MasterState, device: torch.device = HOST) -> None:
        self._run, self._method, self.layout, self._frozen = run, method, state.layout, state.frozen
        self._kernels = kernels_for(device)
        self._master = torch.tensor(state.master, device=device)
        self._kinds, self._steps = state.layout.kinds().to(device), state.layout.steps()
        self._table = QuantaTable(method, state.layout.exponents)
        self._keys: list[int] = []
        self._quanta: list[Row] = []
        """Records that the position counts already, but that are not in the weights yet. So many records share one pass
        over the weights, and the last ones share the pass that reads the weights anyway."""
        self.position: Position = dict(state.position)

    def move(self, target: Position, records: Records, progress: Progress = lambda done, in_all: None) -> None:
        """Take back and add records until the weights are at `target`. The result depends only on `target`.

        Raises:
            LedgerError: a record is missing. `position` then says how far the weights have come.
        """
        spans = list(_between(self.position, target))
        in_all, done = sum(stop - start for _, start, stop, _ in spans), 0
        for log, start, stop, sign in spans:
            # Read all records before using the first: with half of them applied, the weights would be at no position.
            for piece in list(records.pieces(log, start, stop)):
                for index, row in self._rows(piece, start, stop):
                    self._keys.append(seed_key(self._run, log.author, log.session, index))
                    self._quanta.append(sign * row)
                    if len(self._keys) == RECORDS_AT_ONCE:
                        self._add()
                done += piece.within(start, stop)
                progress(done, in_all)
            self.position = {**self.position, log: stop if sign > 0 else start}
        self.position = {log: count for log, count in self.position.items() if count}

    def _rows(self, piece: Piece, start: int, stop: int) -> Iterator[tuple[int, Row]]:
        """(index, quanta) of a piece's records from `start` to `stop`, without those of code 0."""
        step = rate_step(self._method, piece.clock)
        for index, code in enumerate(np.frombuffer(piece.codes, dtype=np.int8).tolist(), piece.start):
            if code and start <= index < stop:
                yield index, self._table.row(code, step)

    def _add(self) -> None:
        self._kernels.add(self._master, self._kinds, *self._take())

    def _take(self) -> tuple[list[int], torch.Tensor]:
        """The waiting records, which do not wait any more: their keys, and their quanta as int32, (records, kinds)."""
        keys, rows = self._keys, np.array(self._quanta, dtype=np.int32).reshape(len(self._keys), len(self._steps))
        self._keys, self._quanta = [], []
        return keys, torch.from_numpy(rows)

    def perturb(self, key: int, amplitude: float, out: torch.Tensor) -> None:
        """Write the weights, moved by `amplitude` along the perturbation of a 64-bit key, to `out`: (elements), float32
        or bfloat16, on the replica's device."""
        given = self._master, self._kinds, self._steps, key, amplitude, out
        self._kernels.perturb(*given, *self._take())

    def weights(self, out: torch.Tensor) -> None:
        """Write the weights themselves to `out`, see `perturb`."""
        self.perturb(0, 0.0, out)

    def state(self) -> MasterState:
        """A copy of the weights and their position, on the CPU."""
        self._add()
        master = self._master.to("cpu", copy=True).numpy()
        return MasterState(self.layout, dict(self.position), master, self._frozen)

    @property
    def elements(self) -> int:
        """Length of the flat vector of weights, padding included."""
        return self._master.numel()


def _between(applied: Position, target: Position) -> Iterator[tuple[Log, int, int, int]]:
    """(log, start, stop, ±1): first all records to take back (−1), then all to add (+1), in the order of logs."""
    logs = sorted({*applied, *target})
    for log in logs:
        if applied.get(log, 0) > target.get(log, 0):
            yield log, target.get(log, 0), applied[log], -1
    for log in logs:
        if target.get(log, 0) > applied.get(log, 0):
            yield log, applied.get(log, 0), target[log], 1
