"""Paths as people give them."""

from __future__ import annotations

import os
from pathlib import Path

from p2ptrain.errors import UsageError

PathLike = str | os.PathLike[str]


def exists(path: PathLike) -> bool:
    """Whether there is such a file or folder. `Path.exists` raises an error if the name is too long, or if a folder
    above it may not be read."""
    return os.path.exists(path)  # noqa: PTH110


def nearest(folder: Path) -> Path:
    """The folder itself if it exists, else the nearest folder above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if exists(path))


def path_of(given: PathLike, argument: str) -> Path:
    """Return `given` as a `Path`.

    Args:
        argument: its name in the function that was called, for the message.

    Raises:
        UsageError: it is neither a string nor an `os.PathLike` of one, or it is the empty string.
    """
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(path, str) or not path:
        raise UsageError(
            f"the argument {argument!r} must be a path",
            f"it is {given!r}, of type {type(given).__name__}",
            "give a string that is not empty, or a pathlib.Path",
        )
    return Path(path)
