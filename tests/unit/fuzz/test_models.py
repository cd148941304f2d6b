"""Random small models of many architectures: each trains as it should, or one message says why not.

A trial that fails names its seed. To play it again:
FUZZ_SEEDS=1234 python -m pytest -k few tests/unit/fuzz/test_models.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fuzz.budget import MINUTES_OF_ONE, play_for_long, seeds
from tests.unit.fuzz.model_trial import play_model
from tests.unit.fuzz.models import FAMILIES

pytestmark = pytest.mark.usefixtures("own_dataset_cache", "quiet")


@pytest.fixture
def quiet() -> Iterator[None]:
    """transformers warns of most of these configurations. If a trial fails, its seed would be hard to find."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(before)
    logging.enable_progress_bar()


def test_they_are_at_least_twenty() -> None:
    assert len({family.name for family in FAMILIES}) >= 20


@pytest.mark.parametrize("seed", seeds(20))
def test_a_few_random_models(seed: int, tmp_path: Path) -> None:
    play_model(seed, tmp_path / "model")


@pytest.mark.long
@pytest.mark.timeout(60 * MINUTES_OF_ONE + 120)
def test_many_random_models(tmp_path: Path) -> None:
    play_for_long(play_model, tmp_path / "trials")
