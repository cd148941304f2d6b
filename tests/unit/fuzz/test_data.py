"""Random files of every kind: a run trains on all that can be used and counts the rest, or it says clearly why not.

A trial that fails names its seed. To play it again:
FUZZ_SEEDS=1234 python -m pytest -k few tests/unit/fuzz/test_data.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.fuzz.budget import MINUTES_OF_ONE, play_for_long, seeds
from tests.unit.fuzz.trial import play

pytestmark = pytest.mark.usefixtures("own_dataset_cache")


@pytest.mark.parametrize("seed", seeds(40))
def test_a_few_random_files(seed: int, tmp_path: Path) -> None:
    play(seed, tmp_path / "files")


@pytest.mark.long
@pytest.mark.timeout(60 * MINUTES_OF_ONE + 120)
def test_many_random_files(tmp_path: Path) -> None:
    play_for_long(play, tmp_path / "trials")
