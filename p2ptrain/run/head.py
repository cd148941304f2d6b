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
    """Decides between forks of a chain; 0 in an unordered ledger."""

    @property
    def rank(self) -> tuple[int, int, int]:
        """A chain's head is the applied position of the highest rank: the heaviest one; among these the one of the
        shortest branch; among these the one of the lowest digest."""
        return self.weight, -self.height, -int.from_bytes(self.commit, "big")
