"""What an exchange shows the trainer: which records stand, replaced whole whenever that changes."""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.run import Digest
from p2ptrain.spsa.position import Position, total


@dataclass(frozen=True, slots=True)
class View:
    """The logs as the trainer sees them."""

    standing: Position
    """Records that count and are on this disk."""
    digest: Digest
    """Of these: see `Logbook.digest`."""
    caught_up: bool = False
    """False while a newcomer is still pulling logs."""
    revoked: bool = False
    """Whether what this peer says is in vain."""

    @property
    def records(self) -> int:
        return total(self.standing)
