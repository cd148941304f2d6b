"""What other processes use of this machine's cores, and how many threads that leaves for training.

torch's threads spin while they wait for one another: the fastest way as long as each has a core, and by far the slowest
as soon as one has not. So a peer that finds another peer, or a compiler, beside it takes fewer.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import psutil
import torch

from p2ptrain.swarm import monotonic

LOOK_SECONDS = 2.0
FREE_SECONDS = 60.0
"""Cores have to be free for so long before there are more threads."""
LONGEST_SECONDS = 3600.0
ALWAYS_USED = 0.25
"""Of one core: what a system that does nothing takes."""

log = logging.getLogger(__name__)


class OthersShare:
    """Other processes' share of all cores' time since the last look, from 0 to 1; p2pd counts as this one."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._before = self._times()

    def __call__(self) -> float:
        now = self._times()
        total, idle, own = (new - old for new, old in zip(now, self._before, strict=True))
        self._before = now
        return others_share(total, idle, own)

    def _times(self) -> tuple[float, float, float]:
        """Seconds of all cores together: in all, idle, and this peer's."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user and nice already
        own = 0.0
        for process in (self._own, *self._own.children()):
            try:
                used = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            own += used.user + used.system
        return sum(times) - guests, idle, own


def others_share(total: float, idle: float, own: float) -> float:
    return max(0.0, total - idle - own) / total if total > 0 else 0.0


class Cores:
    """Keeps torch to the cores that others leave free. Belongs to the thread that trains: others' have their own
    number.

    Args:
        most: threads when nobody else is there.
        cores: of this machine.
        others: their share of them since the last look.
    """

    def __init__(
        self,
        most: int,
        cores: int,
        others: Callable[[], float],
        set_threads: Callable[[int], None] = torch.set_num_threads,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._most, self._cores, self._others, self._set, self._clock = most, cores, others, set_threads, clock
        self.threads = self._free = most
        self._looked = clock()
        self._grown: float | None = None
        self._wider: tuple[float, int] | None = None
        """Since when more are free, and how many at least."""
        self._patience = FREE_SECONDS

    def look(self) -> None:
        """Before a step: now and then, see what is free. Fewer threads after two looks that agree, more after a minute;
        where that was wrong, because peers made way for one another, after two minutes, four, …"""
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        unused = self._cores * (1 - self._others()) + ALWAYS_USED
        before, self._free = self._free, max(1, min(self._most, math.floor(unused)))
        if self._free <= self.threads:
            self._wider = None
            if max(before, self._free) < self.threads:
                wrong = self._grown is not None and now - self._grown < FREE_SECONDS
                self._patience = min(2 * self._patience, LONGEST_SECONDS) if wrong else FREE_SECONDS
                self._change(max(before, self._free))
            return
        since, least = self._wider or (now, self._free)
        self._wider = since, min(least, self._free)
        if now - since >= self._patience:
            self._grown = now
            self._change(self._wider[1])

    def _change(self, threads: int) -> None:
        log.info("training takes %d of %d CPU threads now", threads, self._most)
        self.threads, self._wider = threads, None
        self._set(threads)
