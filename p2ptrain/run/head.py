"""Where a peer stands in its run's ledger."""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.run.digest import Digest


@dataclass(frozen=True, slots=True)
class Head:
    """The ledger position that a peer has applied, and the state there. Equal heads mean equal bytes."""

    height: int
    """Commits of a chain, or records of an unordered ledger."""
    commit: Digest
    """Names the position: the last commit of a chain, or the digest of which records count."""
    state: Digest
    weight: int = 0
    """What forks of a chain are compared by; 0 where there are none."""

    @property
    def rank(self) -> tuple[int, int, int]:
        """The head of a chain is the applied position of the highest rank: the heavier one, then the shorter one, then
        the one with the lower digest."""
        return self.weight, -self.height, -int.from_bytes(self.commit, "big")
