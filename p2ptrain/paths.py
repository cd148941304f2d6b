"""Paths as callers of the Python API give them."""

from __future__ import annotations

import os
from pathlib import Path

from p2ptrain.errors import UsageError

PathLike = str | os.PathLike[str]


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
