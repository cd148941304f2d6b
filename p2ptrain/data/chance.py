"""The random numbers by which a peer draws. Pure."""

from __future__ import annotations

import numpy as np


def generator(seed: int, counter: int, what: int = 0, epoch: int = 0) -> np.random.Generator:
    """A generator for these four numbers (seed: 128 bits; the others: 64 bits): so each batch can be drawn without the
    batches before it.

    Args:
        what, epoch: batches have 0 and 0, what a stream deals out has an epoch from 1 on.
    """
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, counter, what, epoch]))
