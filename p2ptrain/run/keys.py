"""Ed25519 keys and peer ids, as libp2p defines them. A peer id contains its public key: it is all that a check of a
signature needs.

An Ed25519 peer id is the base58 text of `00 24 08 01 12 20 ‖ public key` (libp2p peer-id spec: the identity multihash
of the protobuf-encoded key), 52 characters that begin with `12D3KooW`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NewType

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PeerId = NewType("PeerId", str)

SIGNATURE_BYTES = 64
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
_KEY_FILE_PREFIX = bytes.fromhex("08011240")  # protobuf PrivateKey(key_type=Ed25519, data=<64 bytes>)


class SigningKey:
    """A private key, and the peer id that belongs to it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key().public_bytes_raw()
        self.peer_id = peer_id_from_key(self._public)

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_file_bytes(cls, data: bytes) -> SigningKey:
        """Read the content of a key file of libp2p.

        Raises:
            ValueError: the bytes are not an Ed25519 key in that format, or its two halves do not belong together.
        """
        if len(data) != len(_KEY_FILE_PREFIX) + 64 or not data.startswith(_KEY_FILE_PREFIX):
            raise ValueError("not a libp2p Ed25519 private key")
        private, public = data[4:36], data[36:]
        key = cls(Ed25519PrivateKey.from_private_bytes(private))
        if key._public != public:
            raise ValueError("the private and the public half do not belong together")
        return key

    def to_file_bytes(self) -> bytes:
        return _KEY_FILE_PREFIX + self._key.private_bytes_raw() + self._public

    def sign(self, message: bytes) -> bytes:
        """A signature of 64 bytes. The same message always gets the same signature."""
        return self._key.sign(message)


def check_peer_id(text: str) -> PeerId:
    """Return `text` as a peer id; raises ValueError if it is not the peer id of an Ed25519 key."""
    public_key_of(text)
    return PeerId(text)


@lru_cache(maxsize=4096)
def public_key_of(peer_id: str) -> Ed25519PublicKey:
    if len(peer_id) != 52 or not peer_id.startswith("12D3KooW"):
        raise ValueError("not an Ed25519 peer id")
    raw = base58.b58decode(peer_id)
    if len(raw) != 38 or not raw.startswith(_PEER_ID_PREFIX):
        raise ValueError("not an Ed25519 peer id")
    return Ed25519PublicKey.from_public_bytes(raw[len(_PEER_ID_PREFIX) :])


def peer_id_from_bytes(raw: bytes) -> PeerId:
    """The peer id of the 38 bytes that libp2p sends; raises ValueError if they are not that of an Ed25519 key."""
    return check_peer_id(base58.b58encode(raw).decode() if len(raw) == 38 else "")


@lru_cache(maxsize=4096)
def peer_id_to_bytes(peer_id: PeerId) -> bytes:
    raw: bytes = base58.b58decode(peer_id)
    return raw


def public_bytes_of(peer_id: str) -> bytes:
    """The public key in a peer id: 32 bytes."""
    return peer_id_to_bytes(PeerId(peer_id))[len(_PEER_ID_PREFIX) :]


def peer_id_from_key(public: bytes) -> PeerId:
    """The peer id of a public key of 32 bytes."""
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public).decode())


def is_signed_by(peer_id: PeerId, signature: bytes, message: bytes) -> bool:
    try:
        public_key_of(peer_id).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def short_peer(peer_id: str) -> str:
    """The last six characters, for people. The first ones are the same in all peer ids."""
    return peer_id[-6:]
