"""Files that are either complete or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from p2ptrain.causes import writing
from p2ptrain.errors import StorageError
from p2ptrain.run.digest import Buffer


def write_whole(path: Path, data: Buffer) -> None:
    """Write a file so that it is either complete or not there, also after a power loss. It replaces an older file.

    Raises:
        StorageError: the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        then = "it resumes from what was saved before"
        raise StorageError(f"can't write {path}", *writing(error, then)) from None


def tidy_up(folder: Path) -> None:
    """Delete files that a crash left half-written, and sync the folder. Call it at a start, when nobody writes here."""
    drop_unfinished(folder)
    _sync_folder(folder)


def drop_unfinished(folder: Path) -> None:
    """Delete files that a crash left half-written. Nobody may be writing here meanwhile."""
    for leftover in folder.glob(".*.part"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Sync the names of the files in it: later writes, e.g. to the ledger, may rely on a new file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
