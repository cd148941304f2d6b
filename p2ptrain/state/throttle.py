"""A volunteer's limit on bytes per second.

Bulk data (blobs, commits, logs) waits for its turn before it moves. Everything else (gossip, also of others, calls,
encryption, packet headers) does not wait. It is counted on the network connections, and bulk data waits longer for it.
"""

from __future__ import annotations

import asyncio
import logging

from p2ptrain.swarm.wire import Wire

BURST_SECONDS = 0.25
"""Bulk data may move this much ahead of time, so that not every chunk waits."""

CHUNK_SECONDS = 2.0
"""A peer that is served should get a chunk in about this time."""

UNDERWAY_SECONDS, UNDERWAY_BYTES = 2.0, 1024 * 1024
"""Granted bytes that have not moved count as still to come, but at most those of this many seconds, or this many bytes
if that is more. The rest will never move."""

COUNT_SECONDS = 0.25
OVERRUN_SECONDS = 15.0
"""If the backlog is longer than this, gossip and calls alone exceed the limit, and the volunteer is told."""

log = logging.getLogger(__name__)


class Throttle:
    """Lets callers move bytes at a rate, in the order in which they ask. Use it on one event loop.

    Args:
        rate: bytes per second; None means: no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._free = 0.0
        """The loop's time at which all bytes granted so far have moved."""
        self._unasked = 0.0
        """Bytes that have moved without being granted. Below zero: granted bytes that have yet to move."""

    @property
    def backlog(self) -> float:
        """Seconds until all bytes granted so far have moved."""
        return max(0.0, self._free - asyncio.get_running_loop().time())

    def streams(self, most: int, chunk: int) -> int:
        """How many streams (at most `most`) can share the rate, if each should get a chunk of `chunk` bytes in time."""
        return most if self.rate is None else min(most, max(1, int(self.rate * CHUNK_SECONDS / chunk)))

    async def take(self, count: int) -> None:
        """Wait until `count` more bytes may move."""
        if self.rate is None:
            return
        self._unasked -= count
        self._spend(count)
        if (wait := self.backlog - BURST_SECONDS) > 0:
            await asyncio.sleep(wait)

    def give_back(self, count: int) -> None:
        """Give back `count` bytes that were taken and will not move."""
        if self.rate is not None:
            self._unasked += count
            self._free -= count / self.rate

    def settle(self, moved: int) -> None:
        """Count `moved` bytes that the connections have carried since the last call, taken by somebody or not."""
        if self.rate is None:
            return
        least = -max(UNDERWAY_BYTES, self.rate * UNDERWAY_SECONDS)
        self._unasked = max(self._unasked + moved, least)
        if self._unasked > 0:
            self._spend(self._unasked)
            self._unasked = 0.0

    def _spend(self, count: float) -> None:
        assert self.rate is not None
        self._free = max(self._free, asyncio.get_running_loop().time()) + count / self.rate


async def count_the_rest(wire: Wire, up: Throttle, down: Throttle) -> None:
    """As long as p2pd runs, count everything that its connections carry, so that both limits hold for all of it."""
    before, told = wire.carried(), set[str]()
    while True:
        await asyncio.sleep(COUNT_SECONDS)
        try:
            now = wire.carried()
        except OSError as error:  # p2pd has ended, which the swarm notices and says by itself
            log.info("what p2pd's connections carry is not counted any more: %s", error)
            return
        up.settle(now.up - before.up)
        down.settle(now.down - before.down)
        before = now
        for flag, throttle in (("--max-up", up), ("--max-down", down)):
            if throttle.backlog > OVERRUN_SECONDS and flag not in told:
                told.add(flag)
                log.warning("gossip and calls alone take more than %s allows: raise it, or leave the run", flag)


UNLIMITED = Throttle(None)
