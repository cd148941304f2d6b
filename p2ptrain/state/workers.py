"""Two threads of a peer, besides the one that trains and the network's: one computes states, one writes to disk."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import torch

Args = ParamSpec("Args")
Result = TypeVar("Result")


class Workers:
    """The two threads. Each does one piece of work after another."""

    def __init__(self) -> None:
        self._computing = concurrent.futures.ThreadPoolExecutor(1, "p2ptrain-compute", initializer=_prepare_arithmetic)
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "p2ptrain-write")

    async def compute(self, work: Callable[Args, Result], *args: Args.args, **named: Args.kwargs) -> Result:
        """Run work for which others wait (outer steps, digests, the ledger), and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._computing, partial(work, *args, **named))

    async def write(self, work: Callable[Args, Result], *args: Args.args, **named: Args.kwargs) -> Result:
        """Run work for which nobody waits (snapshots), and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, partial(work, *args, **named))

    def end(self, last: Callable[[], None]) -> None:
        """Finish the work that is due, then run `last`, and end both threads. Any thread may call this."""
        try:
            self._writer.submit(last).result()
        finally:
            self._computing.shutdown()
            self._writer.shutdown()


def _prepare_arithmetic() -> None:
    """The outer step needs denormal numbers. Whether they are flushed to zero is set for each thread."""
    torch.set_flush_denormal(False)
