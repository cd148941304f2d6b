"""How long a round waits. Each peer learns this from what it has seen; it never decides what is correct.

    grace            min(cap, max(0.2 s, median + 4·MAD)) of the last 32 delays between a quorum and an arrival
    cap              max(5 s, half the median time between commits)
    attempt timeout  min(30 s, 2 s + 4 · median delay between closing time and commit)

`docs/choices.md` says how these numbers were chosen.
"""

from __future__ import annotations

from collections import deque
from statistics import median

WINDOW = 32
MIN_GRACE, FIRST_GRACE, GRACE_CAP = 0.2, 1.0, 5.0
MIN_ATTEMPT, MAX_ATTEMPT = 2.0, 30.0


class Pace:
    """The last 32 delays of each kind, in seconds."""

    def __init__(self) -> None:
        self._lags: deque[float] = deque(maxlen=WINDOW)
        self._latencies: deque[float] = deque(maxlen=WINDOW)
        self._periods: deque[float] = deque(maxlen=WINDOW)

    def contribution_arrived(self, after_quorum: float) -> None:
        self._lags.append(after_quorum)

    def missed(self, trainers: int) -> None:
        """The round ended without the contributions of `trainers` live trainers, so they need longer than it waited."""
        self._lags.extend([1.5 * self.grace()] * trainers)

    def commit_arrived(self, after_closable: float) -> None:
        self._latencies.append(after_closable)

    def round_took(self, seconds: float) -> None:
        self._periods.append(seconds)

    def grace(self) -> float:
        """Seconds to wait for the others after a quorum."""
        if not self._lags:
            return FIRST_GRACE
        cap = max(GRACE_CAP, median(self._periods) / 2) if self._periods else GRACE_CAP
        middle = median(self._lags)
        spread = median(abs(lag - middle) for lag in self._lags)
        return min(cap, max(MIN_GRACE, middle + 4 * spread))

    def attempt_timeout(self) -> float:
        """Seconds that a leader may be silent before it is the next one's turn."""
        latency = median(self._latencies) if self._latencies else 0.0
        return min(MAX_ATTEMPT, MIN_ATTEMPT + 4 * latency)
