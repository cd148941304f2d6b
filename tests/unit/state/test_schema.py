"""A run folder of another format is refused: it is neither changed nor put aside."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from p2ptrain.errors import StorageError
from p2ptrain.state import DamagedError, RunFolder
from p2ptrain.state.schema import FORMAT

ANEW = "start or join the run anew, or use the version of p2ptrain that wrote the folder"


def of_format(folder: Path, number: int) -> Path:
    """The folder's ledger, which now says that it is of this format."""
    ledger = folder / "ledger.sqlite"
    with sqlite3.connect(ledger) as db:
        db.execute(f"PRAGMA user_version = {number}")
    db.close()
    return ledger


def content_of(ledger: Path) -> list[str]:
    """All of a file, as SQL, and its format."""
    db = sqlite3.connect(ledger)
    lines = [*db.iterdump(), str(db.execute("PRAGMA user_version").fetchone())]
    db.close()
    return lines


@pytest.mark.parametrize("lock", [True, False])
@pytest.mark.parametrize(
    ("found", "next_step"),
    [(FORMAT + 1, "update p2ptrain"), (2**31 - 1, "update p2ptrain"), *((old, ANEW) for old in (1, 2, FORMAT - 1, -1))],
)
def test_a_folder_of_another_format_is_refused(run_folder: Path, lock: bool, found: int, next_step: str) -> None:
    ledger = of_format(run_folder, found)
    before = content_of(ledger)
    for _ in range(2):  # not "in use" the second time
        with pytest.raises(StorageError) as refusal:
            RunFolder.open(run_folder, lock)
        assert not isinstance(refusal.value, DamagedError), "nothing is put aside"
        assert refusal.value.what == f"{ledger} has storage format {found}"
        assert refusal.value.why == f"this version of p2ptrain reads format {FORMAT} only"
        assert refusal.value.next_step == next_step
    assert content_of(ledger) == before


def test_the_format_is_told_before_the_other_files_are_read(run_folder: Path) -> None:
    """They are of the same version: what this one can't read there is not damage."""
    of_format(run_folder, FORMAT - 1)
    (run_folder / "genesis").write_bytes(b"as another version wrote it")
    with pytest.raises(StorageError, match=f"has storage format {FORMAT - 1}"):
        RunFolder.open(run_folder)
