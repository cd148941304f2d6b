"""Keys and presences for tests."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2ptrain.run import NO_DIGEST, SigningKey, digest_of
from p2ptrain.swarm import Presence

RUN = digest_of(b"a run")
KEYS = [SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in range(4)]


def presence_of(key: SigningKey = KEYS[0], **changes: Any) -> Presence:
    """A signed presence in RUN."""
    fields: dict[str, Any] = {
        "run": RUN,
        "session": bytes(8),
        "beat": 1,
        "phase": "training",
        "version": "0.1.0",
        "device": "cpu",
        "addresses": ("/ip4/127.0.0.1/tcp/1/p2p/" + key.peer_id,),
        "reachability": "loopback",
        "height": 3,
        "commit": digest_of(b"commit"),
        "state": digest_of(b"state"),
        "weight": 10,
        "steps": 20,
        "tokens": 30,
        "tokens_per_second": 4.5,
        "loss": None,
        "eval_height": 0,
        "eval_loss": None,
        "held_out": NO_DIGEST,
        "snapshots": (),
        "bytes_sent": 0,
        "taken_back": 0,
        "name": "",
        "max_up": 0,
        "max_down": 0,
    }
    return Presence(author=key.peer_id, **(fields | changes)).signed(key)
