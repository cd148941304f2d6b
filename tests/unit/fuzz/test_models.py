"""Random small models of many architectures: each trains as it should, or one message says why not.

A trial that fails names its seed. To play it again:
FUZZ_SEEDS=1234 python -m pytest -k few tests/unit/fuzz/test_models.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.fuzz.budget import MINUTES_OF_ONE, play_for, seeds
from tests.unit.fuzz.model_trial import play_model
from tests.unit.fuzz.models import FAMILIES

pytestmark = pytest.mark.usefixtures("own_dataset_cache")


def test_they_are_at_least_twenty() -> None:
    assert len({family.name for family in FAMILIES}) >= 20


@pytest.mark.parametrize("seed", seeds(20))
def test_a_few_random_models(seed: int, tmp_path: Path) -> None:
    play_model(seed, tmp_path / "model")


@pytest.mark.long
@pytest.mark.timeout(60 * MINUTES_OF_ONE + 120)
def test_many_random_models(tmp_path: Path) -> None:
    ends = play_for(play_model, tmp_path / "trials")
    assert ends["trained"] > 20
    assert ends["refused"] > 20
