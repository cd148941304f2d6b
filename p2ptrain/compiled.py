"""Arithmetic on long vectors at the speed of memory: functions that numba compiles to machine code.

The machine code is kept on disk. Compiled functions release the interpreter's lock. numba's fast mathematics stay off,
so each operation rounds once.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

from p2ptrain.errors import SpecError
from p2ptrain.text import first_line

try:
    import numba
    from numba.core.caching import FunctionCache
except Exception as error:  # it is missing, or does not fit to numpy or to the processor
    raise SpecError("numba does not work here", first_line(error), "pip install --upgrade numba") from None

log = logging.getLogger(__name__)


def compiled(*types: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: compile the function on its first call. `types` are numba's types of its arguments, e.g. `vector`;
    without them it is compiled for the types of each call."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        made: Any = numba.njit(nogil=True)(function)
        try:
            made._cache = _Cache(function)  # as `cache=True` does with numba's own
        except RuntimeError:  # neither the package's folder nor the user's cache can be written
            _warn("no folder can be written")
        if not types:
            return made  # type: ignore[no-any-return]

        @wraps(function)
        def call(*arguments: Any) -> Any:
            if not made.signatures:
                made.compile(types)
            return made(*arguments)

        return call

    return decorate


def vector(dtype: Any, *, changed: bool = False) -> Any:
    """The numba type of a contiguous vector. Only a vector that is `changed` has to be writable."""
    return numba.types.Array(numba.from_dtype(dtype), 1, "C", readonly=not changed)


class _Cache(FunctionCache):  # type: ignore[misc]  # numba is not typed
    """numba's cache, which is no reason to fail: if its files are damaged or the disk is full, numba compiles again."""

    def load_overload(self, *args: Any) -> Any:
        try:
            return super().load_overload(*args)
        except Exception:  # of unpickling whatever a crash has left
            with contextlib.suppress(Exception):
                self.flush()  # else saving would read the same index
            return None

    def save_overload(self, *args: Any) -> None:
        try:
            super().save_overload(*args)
        except Exception as error:  # a full disk, or a folder that has gone
            _warn(str(error))


@lru_cache(maxsize=1)
def _warn(reason: str) -> None:
    log.warning(
        "compiled code can't be kept (%s), so each start of a peer compiles for some seconds; "
        "to keep it, set NUMBA_CACHE_DIR to a folder that you can write",
        reason,
    )
