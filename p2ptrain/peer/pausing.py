"""When a peer pauses: outside its volunteer's hours, or while other programs use the machine. Pure: the caller hands in
clocks and probes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from p2ptrain.data.stream import SourceSilent
from p2ptrain.peer.hours import Hours
from p2ptrain.swarm import monotonic

PROBE_SECONDS = 2.0
"""Between two looks at what other programs do."""
BUSY_SECONDS = 6.0
"""The peer pauses when other programs have been busy for so long."""
QUIET_SECONDS = 60.0
"""The peer goes on when other programs have been quiet for so long. Going on too early, and pausing again, costs more
than waiting."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds until data that did not come are asked for again."""

Probe = Callable[[], str]
"""Says in words what other programs do; the empty string if they do little."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a peer does not train now."""

    reason: str
    until: datetime | None = None
    """Local time at which the peer goes on; None if it is not known."""


class Settled:
    """Whether the machine is busy. The answer changes only when the new state has lasted for some time."""

    def __init__(self) -> None:
        self.busy = False
        self._turned: float | None = None
        """When it began to look different from the answer; None if it does not."""

    def look(self, busy: bool, now: float) -> bool:
        """Take in what a probe says at `now`, in monotonic seconds, and return the answer."""
        if busy == self.busy:
            self._turned = None
        else:
            self._turned = now if self._turned is None else self._turned
            if now - self._turned >= (BUSY_SECONDS if busy else QUIET_SECONDS):
                self.busy, self._turned = busy, None
        return self.busy


class Pauses:
    """All reasons to pause. `now` is cheap: it can be called at every step.

    Args:
        probes: called every two seconds; the keys are names for them.
        time_of_day: returns this machine's local time.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        hours: Hours | None = None,
        probes: Mapping[str, Probe] | None = None,
        time_of_day: Callable[[], datetime] = datetime.now,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._hours, self._probes, self._time_of_day, self._clock = hours, dict(probes or {}), time_of_day, clock
        self._settled = {name: Settled() for name in self._probes}
        self._said = dict.fromkeys(self._probes, "")
        self._looked: float | None = None

    def now(self) -> Pause | None:
        """Why the peer must pause now; None: it may train."""
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


class Silence:
    """Pauses a peer while its data do not come, and asks for them again: after a second, then less and less often.

    Args:
        prepare: fetches the next data, or raises SourceSilent.
    """

    def __init__(self, prepare: Callable[[], None], clock: Callable[[], float] = monotonic) -> None:
        self._prepare, self._clock = prepare, clock
        self._pause: Pause | None = None
        self._wait = self._again = 0.0

    def now(self) -> Pause | None:
        """Raises what `prepare` raises, but for SourceSilent."""
        if self._pause is not None and self._clock() < self._again:
            return self._pause
        try:
            self._prepare()
        except SourceSilent as silent:
            self._wait = min(LONGEST_WAIT, 2 * self._wait or FIRST_WAIT)
            self._again = self._clock() + self._wait
            self._pause = Pause(f"the data do not come ({silent})")
        else:
            self._pause, self._wait = None, 0.0
        return self._pause
