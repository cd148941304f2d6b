"""A volunteer's limit on bytes per second.

Bulk is given leave before it moves. What moves without asking (gossip, others' gossip that libp2p passes on, calls,
encryption, packets' headers) is counted on the wire, and bulk waits until the limit has made up for it.
"""

from __future__ import annotations

import asyncio
import logging

from p2ptrain.swarm.wire import Wire

BURST_SECONDS = 0.25
"""So much may be moved ahead of time: waiting for every chunk would cost more than it smooths."""

CHUNK_SECONDS = 2.0
"""Nobody who is served is to wait much longer for a chunk."""

UNDERWAY_SECONDS, UNDERWAY_BYTES = 2.0, 1024 * 1024
"""What has been granted for so long, beyond so much, and has not moved, never will."""

COUNT_SECONDS = 0.25
OVERRUN_SECONDS = 15.0
"""If what moves without asking is so far ahead of the limit, no waiting of bulk makes up for it."""

log = logging.getLogger(__name__)


class Throttle:
    """Hands out leave to move bytes, in the order of asking; on one event loop.

    Args:
        rate: bytes per second; None: no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._free = 0.0
        """Loop time at which what was granted so far is through."""
        self._unasked = 0.0
        """Bytes that have moved beyond what was granted; below zero: granted, and still to move."""

    @property
    def backlog(self) -> float:
        """Seconds until what was granted so far is through."""
        return max(0.0, self._free - asyncio.get_running_loop().time())

    def streams(self, most: int, chunk: int) -> int:
        """How many streams may share the rate, so that each gets a chunk of so many bytes in good time."""
        return most if self.rate is None else min(most, max(1, int(self.rate * CHUNK_SECONDS / chunk)))

    async def take(self, count: int) -> None:
        """Return when `count` more bytes may move."""
        if self.rate is None:
            return
        self._unasked -= count
        self._spend(count)
        wait = self.backlog - BURST_SECONDS
        if wait > 0:
            await asyncio.sleep(wait)

    def give_back(self, count: int) -> None:
        """So many of the bytes that were taken do not move after all."""
        if self.rate is not None:
            self._unasked += count
            self._free -= count / self.rate

    def settle(self, moved: int) -> None:
        """So many bytes were seen to move since the last time: those that nobody has taken are spent, too."""
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
    """For as long as p2pd runs, make both limits hold for everything that its connections carry."""
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
