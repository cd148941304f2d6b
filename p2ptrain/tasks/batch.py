"""The batch size that suits a machine: doubled for as long as it fits and pays. Pure; what is measured is handed in."""

from __future__ import annotations

from collections.abc import Callable

import torch

MOST_ROWS = 1024
PAYS = 0.95
"""Twice the batch has to take less than this share of the time per row; else it only makes steps rarer."""
LONGEST_SECONDS = 10.0
"""A step that takes longer is not doubled: a peer that is to stop, or to hurry, finishes its step first."""


def find_batch_size(measure: Callable[[int], float | None], most: int = MOST_ROWS) -> int:
    """The smallest power of two beyond which doubling does not fit or does not pay; 0 if not even one row fits.

    Args:
        measure: seconds that a step on so many rows takes; None: there is no room for them.
    """
    size, best, best_seconds = 1, 0, 0.0
    while size <= most:
        seconds = measure(size)
        if seconds is None or (best and seconds / size > PAYS * best_seconds / best):
            break
        best, best_seconds = size, seconds
        if seconds > LONGEST_SECONDS:
            break
        size *= 2
    return best


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a step failed for want of memory: torch has an error of its own on GPUs alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
