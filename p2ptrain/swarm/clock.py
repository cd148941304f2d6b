"""The swarm's clock, which only the DHT uses: hivemind's records expire by wall time, and some machines' clocks are
wrong.

A newcomer adopts the time of the peers that it first talks with. So all peers of a swarm share the time of its founder,
whatever their own clocks say. Nothing else in p2ptrain depends on it: who is alive is measured with the local monotonic
clock, and no result of training depends on time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from statistics import median

_offset = 0.0


def swarm_time() -> float:
    """The swarm's time in seconds since 1970."""
    return time.time() + _offset


def adopt(times: Sequence[tuple[float, float]]) -> float:
    """Set the swarm's time of this process. `times` has for each peer that was asked its swarm time, and the local wall
    time at that moment, in seconds. Returns the offset in seconds: positive if this machine's clock is behind."""
    global _offset
    _offset = median(theirs - ours for theirs, ours in times) if times else 0.0
    # Every module of hivemind has imported the time function by its name. copy() is one step. list(items()) is not:
    # another thread may import a module meanwhile.
    for name, module in sys.modules.copy().items():
        if name.startswith("hivemind") and getattr(module, "get_dht_time", None) not in (None, swarm_time):
            module.get_dht_time = swarm_time  # type: ignore[attr-defined]
    return _offset
