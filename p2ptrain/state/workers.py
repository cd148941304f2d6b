"""The two threads of a peer beside the trainer's and the network's: one computes states, one writes to disk."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Workers:
    """Each does one thing after another."""

    def __init__(self) -> None:
        self._computing = concurrent.futures.ThreadPoolExecutor(1, "p2ptrain-compute", initializer=_prepare_arithmetic)
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "p2ptrain-write")

    async def compute(
        self, function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """What others wait for: outer steps, digests, the ledger."""
        return await _on(self._computing, lambda: function(*arguments, **named))

    async def write(
        self, function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """What nobody waits for: snapshots."""
        return await _on(self._writer, lambda: function(*arguments, **named))

    def end(self, last: Callable[[], None]) -> None:
        """On any thread: do what is still due, then `last`, and end both threads."""
        try:
            self._writer.submit(last).result()
        finally:
            self._computing.shutdown()
            self._writer.shutdown()


async def _on(thread: concurrent.futures.Executor, work: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(thread, work)


def _prepare_arithmetic() -> None:
    """The outer step needs denormal numbers, and flushing them is a setting of each thread."""
    torch.set_flush_denormal(False)
