from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.swarm.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Peers in a home of their own; every process that the test started is gone when it ends."""
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.close()
