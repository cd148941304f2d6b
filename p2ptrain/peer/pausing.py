"""When a peer pauses, by its volunteer's hours and by what else this machine does. Pure: clocks and probes are handed
in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from p2ptrain.peer.hours import Hours
from p2ptrain.swarm import monotonic

PROBE_SECONDS = 2.0
BUSY_SECONDS = 6.0
"""Somebody else's work has to last so long before the peer makes way."""
QUIET_SECONDS = 60.0
"""And has to have ended so long ago before it goes on: pausing and going on cost more than waiting."""

Probe = Callable[[], str]
"""Says what other processes do there, in words; nothing while they do nothing to speak of."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a peer does not train now."""

    reason: str
    until: datetime | None = None
    """Local time at which it goes on; None if nobody knows."""


class Settled:
    """Busy or quiet, once either has lasted."""

    def __init__(self) -> None:
        self.busy = False
        self._turned: float | None = None
        """Since when it looks otherwise."""

    def look(self, busy: bool, now: float) -> bool:
        """Take in what it looks like now, and say what it is."""
        if busy == self.busy:
            self._turned = None
        else:
            self._turned = now if self._turned is None else self._turned
            if now - self._turned >= (BUSY_SECONDS if busy else QUIET_SECONDS):
                self.busy, self._turned = busy, None
        return self.busy


class Pauses:
    """All reasons together; `now` may be asked at every step.

    Args:
        probes: what is looked at every other second, each with hysteresis of its own.
        time_of_day: this machine's local time.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        hours: Hours | None = None,
        probes: Mapping[str, Probe] | None = None,
        time_of_day: Callable[[], datetime] = datetime.now,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._hours, self._probes = hours, dict(probes or {})
        self._time_of_day, self._clock = time_of_day, clock
        self._settled = {name: Settled() for name in self._probes}
        self._said = dict.fromkeys(self._probes, "")
        self._looked: float | None = None

    def now(self) -> Pause | None:
        """Why to pause now; None: train."""
        busy = self._look()
        time = self._time_of_day()
        if self._hours is not None and not self._hours.allow(time):
            return Pause("outside its hours", self._hours.next_start(time))
        return Pause(busy) if busy else None

    def _look(self) -> str:
        now = self._clock()
        if self._looked is None or now - self._looked >= PROBE_SECONDS:
            self._looked = now
            for name, probe in self._probes.items():
                said = probe()
                self._said[name] = said or self._said[name]
                self._settled[name].look(bool(said), now)
        return "; ".join(self._said[name] for name, settled in self._settled.items() if settled.busy)


NEVER = Pauses()
