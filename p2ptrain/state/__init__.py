"""What lasts and how it moves: blobs by digest, the multi-source fetch, the ledger (SQLite), snapshots' vectors
(safetensors) and a run's folder on disk.

It knows digests, heights and bytes; the grammar of a ledger belongs to the method (`diloco`).
"""

from p2ptrain.state.blobs import Blobs
from p2ptrain.state.fetch import Fetcher, FetchError, serve
from p2ptrain.state.folder import RunFolder
from p2ptrain.state.ledger import Ledger, SnapshotRow
from p2ptrain.state.vectors import Vectors, write_whole

__all__ = [
    "Blobs",
    "FetchError",
    "Fetcher",
    "Ledger",
    "RunFolder",
    "SnapshotRow",
    "Vectors",
    "serve",
    "write_whole",
]
