"""What an exchange shows the trainer. The view is replaced whole whenever something in it changes."""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.run import Digest
from p2ptrain.spsa.position import Position, total


@dataclass(frozen=True, slots=True)
class View:
    """The logs as the trainer sees them."""

    standing: Position
    """The records that count and are on this peer's disk."""
    digest: Digest
    """Names these records, see `Logbook.digest`."""
    caught_up: bool = False
    """False while a newcomer is still pulling logs."""
    revoked: bool = False
    """Whether an owner has revoked this peer, so that its records do not count."""

    @property
    def records(self) -> int:
        """The number of records that count."""
        return total(self.standing)
