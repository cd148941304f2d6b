"""Background work of a method on the network thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from p2ptrain.swarm import Swarm


class Background:
    """Starts work on the network thread and ends all of it together."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = False
        """True once `stop` was called: nothing starts any more."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Start work that `stop` cancels. Returns None if `stop` was called before.

        If the work fails, the swarm's `check` raises on the trainer's thread.
        """
        if self.stopping:
            work.close()
            return None
        task = self._swarm.spawn(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Cancel all work and wait for its end. Later calls of `spawn` start nothing."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
