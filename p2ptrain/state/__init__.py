"""What a peer keeps, and how it moves: blobs by digest, the fetch from several peers, the ledger (SQLite), vectors of
snapshots (safetensors), and the run folder. `Run` ties them to a swarm.

This room knows digests, heights and bytes; the methods know what they mean.

The names below are loaded when they are first used, so that a bootstrap node does not load numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2ptrain.state.blobs import Blobs
    from p2ptrain.state.database import DamagedError
    from p2ptrain.state.fetch import Fetcher, FetchError, serve
    from p2ptrain.state.folder import RunFolder
    from p2ptrain.state.ledger import HeadSeen, Ledger, Rollback, SnapshotRow
    from p2ptrain.state.limits import NO_LIMITS, Limits

_NAMES = {
    "blobs": ("Blobs",),
    "database": ("DamagedError",),
    "fetch": ("FetchError", "Fetcher", "serve"),
    "folder": ("RunFolder",),
    "ledger": ("HeadSeen", "Ledger", "Rollback", "SnapshotRow"),
    "limits": ("NO_LIMITS", "Limits"),
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
    "serve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
