from __future__ import annotations

from pathlib import Path

import pytest

from p2ptrain.run import NO_DIGEST, Genesis, digest_of
from p2ptrain.state import RunFolder
from tests.unit.state.samples import KEYS, SPEC


@pytest.fixture(scope="session")
def genesis() -> Genesis:
    return Genesis.found(SPEC, digest_of(b"base"), NO_DIGEST, "tests", KEYS[0])


@pytest.fixture
def run_folder(tmp_path: Path, genesis: Genesis) -> Path:
    """A run folder that nobody has open."""
    folder = RunFolder.create(tmp_path, genesis, SPEC, KEYS[0].peer_id)
    folder.close()
    return folder.path
