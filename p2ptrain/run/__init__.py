"""What a run is: its spec, its genesis and id, and the records, digests and signatures that peers exchange.

All other rooms use this one. It imports none of them, and it touches neither the network nor threads.
"""

from p2ptrain.run.digest import CHUNK_BYTES, NO_DIGEST, Digest, Manifest, digest_of, short
from p2ptrain.run.genesis import Genesis
from p2ptrain.run.head import Head
from p2ptrain.run.keys import PeerId, SigningKey, short_peer
from p2ptrain.run.load import load_spec, parse_spec, recipes, spec_from_canonical
from p2ptrain.run.method import DiLoCoMethod, SPSAMethod
from p2ptrain.run.record import Record, SignedRecord
from p2ptrain.run.spec import PROTOCOL, RunSpec

__all__ = [
    "CHUNK_BYTES",
    "NO_DIGEST",
    "PROTOCOL",
    "DiLoCoMethod",
    "Digest",
    "Genesis",
    "Head",
    "Manifest",
    "PeerId",
    "Record",
    "RunSpec",
    "SPSAMethod",
    "SignedRecord",
    "SigningKey",
    "digest_of",
    "load_spec",
    "parse_spec",
    "recipes",
    "short",
    "short_peer",
    "spec_from_canonical",
]
