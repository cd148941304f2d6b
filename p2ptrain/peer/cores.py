"""How many threads training takes: as many as other programs leave cores free.

torch's threads spin while they wait for one another. That is fastest while each thread has a core of its own, and very
slow as soon as one thread has none. So a peer takes fewer threads while another peer, or a compiler, runs beside it.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable

import psutil
import torch

from p2ptrain.swarm import monotonic

LOOK_SECONDS = 2.0
FREE_SECONDS = 60.0
"""Training takes more threads when cores have been free for this long."""
LONGEST_SECONDS = 3600.0
"""The longest that this time becomes; see `Cores.look`."""
ALWAYS_USED = 0.25
"""The part of one core that an idle system uses."""

log = logging.getLogger(__name__)


class OthersShare:
    """Call it for other processes' share of all cores' time since the last call, from 0 to 1. p2pd is not another
    process: it counts as this one."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._before = self._times()

    def __call__(self) -> float:
        before, self._before = self._before, self._times()
        return others_share(*(new - old for new, old in zip(self._before, before, strict=True)))

    def _times(self) -> tuple[float, float, float]:
        """(total, idle, this peer's) seconds of all cores together."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user and nice already
        own = 0.0
        for process in (self._own, *self._own.children()):
            with contextlib.suppress(psutil.Error):
                used = process.cpu_times()
                own += used.user + used.system
        return sum(times) - guests, idle, own


def others_share(total: float, idle: float, own: float) -> float:
    """Other processes' share of all cores' time, from 0 to 1; the arguments are seconds."""
    return max(0.0, total - idle - own) / total if total > 0 else 0.0


class Cores:
    """Sets torch's number of threads. Use it on the thread that trains: torch keeps this number for each thread.

    Args:
        most: threads while no other program uses a core.
        cores: number of this machine's cores.
        others: returns other programs' share of all cores since the last call, from 0 to 1.
        set_threads: sets the number of threads.
        clock: returns monotonic seconds.
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
        """(since when more cores are free, the smallest number free since then); None if no more are free."""
        self._patience = FREE_SECONDS

    def look(self) -> None:
        """Call it before each step; it looks every two seconds.

        Training takes fewer threads when two looks agree, and more threads when cores have been free for a minute. If
        it has to take fewer again within a minute, because several peers made way for one another, it waits for two
        minutes the next time, then for four, and so on.
        """
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
        log.info("training uses %d of %d CPU threads now", threads, self._most)
        self.threads, self._wider = threads, None
        self._set(threads)
