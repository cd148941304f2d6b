"""What lasts and how it moves: blobs by digest, the multi-source fetch, the ledger (SQLite), snapshots' vectors
(safetensors) and a run's folder on disk.

It knows digests, heights and bytes; the grammar of a ledger belongs to the method (`diloco`).

The names below are loaded when first used: a bootstrap node, which keeps its contacts alone, spares numpy's memory.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2ptrain.state.blobs import Blobs
    from p2ptrain.state.database import DamagedError
    from p2ptrain.state.fetch import Fetcher, FetchError, serve
    from p2ptrain.state.files import write_whole
    from p2ptrain.state.folder import RunFolder
    from p2ptrain.state.ledger import HeadSeen, Ledger, Rollback, SnapshotRow
    from p2ptrain.state.limits import NO_LIMITS, Limits
    from p2ptrain.state.throttle import Throttle
    from p2ptrain.state.vectors import Vectors

_NAMES = {
    "blobs": ("Blobs",),
    "database": ("DamagedError",),
    "fetch": ("FetchError", "Fetcher", "serve"),
    "files": ("write_whole",),
    "folder": ("RunFolder",),
    "ledger": ("HeadSeen", "Ledger", "Rollback", "SnapshotRow"),
    "limits": ("NO_LIMITS", "Limits"),
    "throttle": ("Throttle",),
    "vectors": ("Vectors",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "NO_LIMITS",
    "Blobs",
    "DamagedError",
    "FetchError",
    "Fetcher",
    "HeadSeen",
    "Ledger",
    "Limits",
    "Rollback",
    "RunFolder",
    "SnapshotRow",
    "Throttle",
    "Vectors",
    "serve",
    "write_whole",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
