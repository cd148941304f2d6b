"""Invites: one link that is all a newcomer needs.

    p2ptrain://1.<base64url of: payload ‖ first 4 bytes of BLAKE3(payload)>

The number before the dot is the version of the link. The payload is msgpack: the run id (empty for a bootstrap node
that trains nothing) and, for each peer that gives a first address, its public key and its libp2p addresses.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Self

import msgpack
from blake3 import blake3

from p2ptrain.errors import InviteError
from p2ptrain.run import Digest
from p2ptrain.run.digest import DIGEST_BYTES
from p2ptrain.run.keys import PeerId, peer_id_from_bytes, peer_id_to_bytes

SCHEME = "p2ptrain://"
VERSION = "1"
MAX_LINK = 4096
MAX_ADDRESSES = 16
_NEXT = "copy the whole link again, or ask for a new one"


@dataclass(frozen=True, slots=True)
class Invite:
    """Where to find a swarm, and which run to join there."""

    run: Digest | None
    addresses: tuple[str, ...]
    """libp2p multiaddrs that end in /p2p/<peer id>."""

    def __str__(self) -> str:
        peers: dict[bytes, list[str]] = {}
        for address in self.addresses[:MAX_ADDRESSES]:
            place, _, peer = address.rpartition("/p2p/")
            peers.setdefault(peer_id_to_bytes(PeerId(peer)), []).append(place)
        payload: bytes = msgpack.packb([self.run or b"", list(peers.items())])
        return f"{SCHEME}{VERSION}.{base64.urlsafe_b64encode(payload + _checksum(payload)).decode().rstrip('=')}"

    @classmethod
    def parse(cls, link: str) -> Self:
        """Read a link.

        Raises:
            InviteError: it is no invite, damaged, or of another version.
        """
        link = link.strip()
        if not link.startswith(SCHEME) or len(link) > MAX_LINK:
            raise InviteError("this is not an invite", f"an invite begins with {SCHEME}", _NEXT)
        version, dot, text = link.removeprefix(SCHEME).partition(".")
        if version != VERSION and dot:
            raise InviteError(
                f"the invite is of version {version[:20]!r}",
                f"this p2ptrain reads version {VERSION}",
                "update p2ptrain" if version.isdecimal() and int(version) > int(VERSION) else _NEXT,
            )
        try:
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            payload, checksum = data[:-4], data[-4:]
            if not dot or checksum != _checksum(payload):
                raise ValueError("its checksum does not match")
            run, peers = msgpack.unpackb(payload, use_list=False)
            if not isinstance(run, bytes) or len(run) not in (0, DIGEST_BYTES):
                raise ValueError("its run id is malformed")
            addresses = tuple(f"{place}/p2p/{peer_id_from_bytes(peer)}" for peer, places in peers for place in places)
        except (ValueError, TypeError, binascii.Error, msgpack.UnpackException) as error:
            raise InviteError("the invite is damaged", str(error)[:200], _NEXT) from None
        if not 0 < len(addresses) <= MAX_ADDRESSES or not all(address.startswith("/") for address in addresses):
            raise InviteError("the invite is damaged", "it holds no usable address", _NEXT)
        return cls(Digest(run) if run else None, addresses)


def _checksum(payload: bytes) -> bytes:
    return blake3(payload).digest()[:4]
