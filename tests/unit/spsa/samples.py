"""Authors, logs and batches for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from p2ptrain.run import Digest, PeerId
from p2ptrain.spsa.byte import magnitude
from p2ptrain.spsa.logbook import Logbook
from p2ptrain.spsa.messages import FIRST, LogBatch
from p2ptrain.state.logs import Log
from tests.unit.diloco.samples import KEY_OF, PEERS

RUN = Digest(b"r" * 32)
FOUNDER = PEERS[0]


def log_of(author: PeerId, session: int = 0) -> Log:
    return Log(author, session.to_bytes(8, "big"))


def codes(*values: int) -> bytes:
    return bytes(value % 256 for value in values)


def decode(code: int, clip: float) -> float:
    """The projected gradient that a code stands for."""
    return float(Fraction(clip) * magnitude(code)) * (1 if code >= 0 else -1)


class Author:
    """Writes one log."""

    def __init__(self, author: PeerId, session: int = 0, run: Digest = RUN) -> None:
        self.log, self._run = log_of(author, session), run
        self.batches: list[LogBatch] = []

    def say(self, *values: int, clock: int = 0) -> LogBatch:
        start = self.batches[-1].stop if self.batches else 0
        before = self.batches[-1].digest if self.batches else FIRST
        batch = LogBatch(self.log, start, clock, codes(*values)).signed(self._run, before, KEY_OF[self.log.author])
        self.batches.append(batch)
        return batch

    def say_again(self, place: int, *values: int) -> LogBatch:
        """Something else in a place where there is a batch."""
        before = self.batches[place - 1].digest if place else FIRST
        other = replace(self.batches[place], codes=codes(*values))
        return replace(other, signature=b"").signed(self._run, before, KEY_OF[self.log.author])


def book(*batches: LogBatch, run: Digest = RUN) -> Logbook:
    found = Logbook(run, frozenset({FOUNDER}))
    add(found, batches)
    return found


def add(found: Logbook, batches: Sequence[LogBatch]) -> None:
    for batch in batches:
        found.append(batch)
