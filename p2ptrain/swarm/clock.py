"""The swarm's clock, for the DHT alone: hivemind's records expire by wall time, and some machines' clocks are wrong.

A newcomer takes over the time of the peers it first speaks to, so a swarm has one time, its founder's, whatever the
machines think. Nothing else in p2ptrain depends on it: liveness is measured on the local monotonic clock, and what is
correct never depends on time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from statistics import median

_offset = 0.0


def swarm_time() -> float:
    """Seconds since 1970 as the swarm counts them."""
    return time.time() + _offset


def adopt(times: Sequence[tuple[float, float]]) -> float:
    """Set this process's swarm time from (peer's swarm time, local wall time at that moment) pairs.

    Returns:
        The offset in seconds that was adopted: positive if this machine's clock is behind.
    """
    global _offset
    _offset = median(theirs - ours for theirs, ours in times) if times else 0.0
    _install()
    return _offset


def _install() -> None:
    """Give swarm time to every module of hivemind that asks for the time: they import the function by its name."""
    # copy() is one step; a list of items is not: it allocates, and meanwhile another thread may import something.
    for name, module in sys.modules.copy().items():
        if name.startswith("hivemind") and getattr(module, "get_dht_time", None) not in (None, swarm_time):
            module.get_dht_time = swarm_time  # type: ignore[attr-defined]
