"""Waiting for other peers: several are asked at the same time without waiting for the slowest, which may be slow on
purpose; and what several callers want of one peer is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from p2ptrain.run import PeerId, short_peer

GRACE_SECONDS = 3.0
"""Seconds that the other peers still get after one peer has answered."""

Answer = TypeVar("Answer")


class Shared:
    """Work for a peer that several callers may want at the same time; it is done once for all of them."""

    def __init__(self) -> None:
        self._running: dict[PeerId, asyncio.Task[None]] = {}

    async def join(self, peer: PeerId, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait for the work that runs for this peer, or begin it. It goes on if a caller is cancelled. Raises what the
        work raises."""
        task = self._running.get(peer)
        if task is None:
            task = self._running[peer] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._end(peer, done))
        await asyncio.shield(task)

    def _end(self, peer: PeerId, done: asyncio.Task[None]) -> None:
        del self._running[peer]
        if not done.cancelled():
            done.exception()  # asyncio complains if nobody reads it, and the callers may have been cancelled


async def ask_all(
    questions: Mapping[PeerId, Coroutine[Any, Any, Answer]], seconds: float, grace: float = GRACE_SECONDS
) -> dict[PeerId, Answer | BaseException]:
    """Ask all peers at the same time.

    Args:
        questions: one coroutine for each peer; those that are not done in time are cancelled.
        seconds: the time for all of them together.
        grace: seconds that the others still get after the first question has succeeded.

    Returns:
        For each peer its answer, or the error that its question raised; TimeoutError if it took too long.
    """
    loop = asyncio.get_running_loop()
    tasks = {peer: loop.create_task(question) for peer, question in questions.items()}
    waiting, ends = set(tasks.values()), loop.time() + seconds
    has_succeeded = False
    try:
        while waiting and (left := ends - loop.time()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not has_succeeded and any(not task.cancelled() and task.exception() is None for task in done):
                has_succeeded, ends = True, min(ends, loop.time() + grace)
    finally:
        for task in waiting:
            task.cancel()
    outcomes = await asyncio.gather(*tasks.values(), return_exceptions=True)
    return {
        peer: TimeoutError(f"{short_peer(peer)}: no answer in time")
        if isinstance(outcome, asyncio.CancelledError)
        else outcome
        for peer, outcome in zip(tasks, outcomes, strict=True)
    }
