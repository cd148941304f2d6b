"""What a volunteer allows this peer to take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit."""

    disk: int | None = None
    """Bytes for the snapshots and contributions of a run."""
    up: float | None = None
    """Bytes per second that are handed out: snapshots and contributions."""
    down: float | None = None
    """Bytes per second that are fetched."""
    archive: bool = False
    """Keep every contribution and the first snapshot for good, so that the whole run can be replayed."""


NO_LIMITS = Limits()
