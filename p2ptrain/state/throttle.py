"""A volunteer's limit on bytes per second."""

from __future__ import annotations

import asyncio

BURST_SECONDS = 0.25
"""So much may be moved ahead of time: waiting for every chunk would cost more than it smooths."""

CHUNK_SECONDS = 2.0
"""Nobody who is served is to wait much longer for a chunk."""


class Throttle:
    """Hands out leave to move bytes, in the order of asking; on one event loop.

    Args:
        rate: bytes per second; None: no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free = 0.0
        """Loop time at which what was granted so far is through."""

    @property
    def backlog(self) -> float:
        """Seconds until what was granted so far is through."""
        return max(0.0, self._free - asyncio.get_running_loop().time())

    def streams(self, most: int, chunk: int) -> int:
        """How many streams may share the rate, so that each gets a chunk of so many bytes in good time."""
        return most if self._rate is None else min(most, max(1, int(self._rate * CHUNK_SECONDS / chunk)))

    async def take(self, count: int) -> None:
        """Return when `count` more bytes may move."""
        if self._rate is None:
            return
        now = asyncio.get_running_loop().time()
        self._free = max(self._free, now) + count / self._rate
        if self._free - now > BURST_SECONDS:
            await asyncio.sleep(self._free - now - BURST_SECONDS)


UNLIMITED = Throttle(None)
