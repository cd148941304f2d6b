"""A spec, keys, bytes of a known length, and damage to files."""

from __future__ import annotations

import random
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2ptrain.run import SigningKey
from tests.unit.run.specs import spec_with

SPEC = spec_with()
KEYS = [SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in range(1, 7)]
PEERS = [key.peer_id for key in KEYS]


def bytes_of(size: int, seed: int = 0) -> bytes:
    """The same ones each time, and no chunk like another."""
    return random.Random(f"{size} {seed}").randbytes(size)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)


def overwrite(path: Path) -> None:
    path.write_bytes(b"something else entirely, and long enough to be looked at")


def empty(path: Path) -> None:
    path.write_bytes(b"")
