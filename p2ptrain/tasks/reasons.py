"""Why a model can't be loaded, built or run: too little memory, files that Git LFS has not fetched, or what a library
says itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from p2ptrain.data.formats import LFS_POINTER
from p2ptrain.data.trust import is_folder
from p2ptrain.errors import DataError, MemoryLimitError
from p2ptrain.tasks.batch import is_out_of_memory
from p2ptrain.text import one_line

LFS_POINTER_BYTES = 1024
LONGEST_REASON = 300


@contextlib.contextmanager
def enough_memory(purpose: str) -> Iterator[None]:
    """Turn an error that says that memory ran out into a MemoryLimitError.

    Args:
        purpose: what the memory is for, e.g. "to build the model".
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        next_step = "close other programs, or use a smaller model or shorter sequences"
        raise MemoryLimitError(f"there is not enough memory {purpose}", reason(error), next_step) from None


@contextlib.contextmanager
def fetched_by_lfs(kind: str, name: str) -> Iterator[None]:
    """If a model or tokenizer can't be loaded because its folder holds pointers of Git LFS, say so."""
    try:
        yield
    except DataError:
        if not (pointers := lfs_pointers(name)):
            raise
        what, more = f"can't load the {kind} {name!r}", f" and {len(pointers) - 1} more" if len(pointers) > 1 else ""
        why = f"{pointers[0]}{more} is only a pointer: Git LFS has not fetched the file itself"
        raise DataError(what, why, "run git lfs pull in that folder") from None


def lfs_pointers(name: str) -> list[str]:
    """The files in a folder that are only pointers of Git LFS; none if there is no such folder."""
    if not is_folder(name):
        return []
    found = []
    for path in sorted(Path(name).iterdir()):
        with contextlib.suppress(OSError):
            small = path.is_file() and path.stat().st_size <= LFS_POINTER_BYTES
            if small and path.read_bytes().startswith(LFS_POINTER):
                found.append(path.name)
    return found


def reason(error: BaseException) -> str:
    """What a library's error says, on one line, after the name of the error."""
    words = one_line(str(error), LONGEST_REASON)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
