"""What lasts and how it moves: blobs by digest, the multi-source fetch, the ledger (SQLite), snapshots' vectors
(safetensors) and a run's folder on disk.

It knows digests, heights and bytes; the grammar of a ledger belongs to the method (`diloco`).
"""

from p2ptrain.state.blobs import Blobs
from p2ptrain.state.database import DamagedError
from p2ptrain.state.fetch import Fetcher, FetchError, serve
from p2ptrain.state.files import write_whole
from p2ptrain.state.folder import RunFolder
from p2ptrain.state.ledger import HeadSeen, Ledger, Rollback, SnapshotRow
from p2ptrain.state.limits import NO_LIMITS, Limits
from p2ptrain.state.throttle import Throttle
from p2ptrain.state.vectors import Vectors

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
