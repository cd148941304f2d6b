from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2ptrain.run.access import Epoch
from tests.security.house import House
from tests.security.outsiders import Outsider


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("house"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def outsider(house: House, tmp_path: Path) -> Iterator[Callable[..., Outsider]]:
    """Makes nodes of strangers, which are gone when the test ends."""
    numbers, made = itertools.count(), list[Outsider]()

    def make(epoch: Epoch | None = None, key_file: Path | None = None) -> Outsider:
        made.append(Outsider(key_file or tmp_path / f"{next(numbers)}.key", house.owner.run.id, epoch))
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.close()
