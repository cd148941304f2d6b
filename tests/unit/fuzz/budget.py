"""How many trials, and for how long."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

MINUTES_OF_ONE = 2.5
"""How long each of the two long tests runs: five minutes in all."""
FIRST_SEED = 1_000_000
"""Of the long tests."""
HANGS = 100.0
"""Seconds. A trial that takes longer has failed."""

Play = Callable[[int, Path], str]
"""Takes a seed and a folder that does not exist; returns how the trial ended."""


def seeds(count: int) -> list[int]:
    """Seeds of the few trials that every test run makes; others, if the environment names them."""
    named = os.environ.get("FUZZ_SEEDS")
    return list(map(int, named.split(","))) if named else list(range(count))


def play_for_long(play: Play, folder: Path) -> None:
    """Play trials until the time is over. Many must train, and many must be refused.

    The seeds are the same each time, so that who changes nothing sees nothing new. `make fuzz` takes other ones.
    """
    first, ends = int(os.environ.get("FUZZ_FIRST", FIRST_SEED)), Counter[str]()
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + 60 * MINUTES_OF_ONE:
        seed = first + ends.total()
        print("seed", seed, flush=True)  # pytest shows it if the trial hangs
        ends[play(seed, folder / "trial")] += 1
        assert time.monotonic() - now < HANGS, f"the trial with the seed {seed} took {time.monotonic() - now:.0f} s"
        shutil.rmtree(folder)
    assert ends["trained"] > 20, ends
    assert ends["refused"] > 20, ends
