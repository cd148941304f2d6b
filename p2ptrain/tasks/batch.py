"""Find the batch size that suits a machine: double it while it fits into memory and makes each row cheaper.

This is pure: the caller measures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

MOST_ROWS = 1024
PAYS = 0.95
"""A doubled batch is taken if its time per row is at most this share of the time before."""
LONGEST_SECONDS = 10.0
"""Steps that take longer are not doubled: a peer that is asked to stop must finish its step first."""


def find_batch_size(measure: Callable[[int], float | None], most: int = MOST_ROWS) -> int:
    """Double the number of rows until that does not fit, or is not faster per row.

    Args:
        measure: takes a number of rows; returns the seconds of one step on them, or None if they do not fit.
        most: rows, at most.

    Returns:
        A power of two; 0 if not even one row fits.
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
    """Whether a step failed because there was too little memory. torch has an error class for this on GPUs only."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
