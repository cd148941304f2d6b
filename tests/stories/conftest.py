from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.desk import REPOSITORY, Desk

QUICK = {"P2PTRAIN_BATCH_SIZE": "1", "P2PTRAIN_DATA": str(REPOSITORY / "p2ptrain" / "**" / "*.py")}
"""Little work, so that a story takes seconds; nothing that is typed or shown is different for it."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Terminals in homes of their own; whatever was started in them is gone when the test ends."""
    desk = Desk(tmp_path, QUICK)
    try:
        yield desk
    finally:
        desk.close()
