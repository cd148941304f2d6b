"""Invites: one link with everything that a newcomer needs.

    p2ptrain://<version>.<base64url of: payload ‖ first 4 bytes of BLAKE3(payload)>

The payload is msgpack. Version 1 is for a public run. It holds the run id (empty for a bootstrap node, which trains
nothing) and, for each peer to contact first, the public key and the libp2p addresses. Version 2 is for a private run.
It has a third part: the owner's invitation and its private key. Anybody who has such a link can join, so treat it like
a password.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Self

import msgpack
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2ptrain.errors import InviteError, MalformedError
from p2ptrain.run import Digest
from p2ptrain.run.certificate import KEY_BYTES, Certificate, Invitation
from p2ptrain.run.digest import DIGEST_BYTES
from p2ptrain.run.keys import PeerId, peer_id_from_bytes, peer_id_from_key, peer_id_to_bytes, public_bytes_of

SCHEME = "p2ptrain://"
PUBLIC, PRIVATE = "1", "2"
MAX_LINK = 4096
MAX_ADDRESSES = 16
MAX_INVITED = 4
"""Addresses in the links that this program makes: more would make them too long."""
_NEXT = "copy the whole link again, or ask for a new one"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What lets a newcomer into a private run."""

    invitation: Invitation
    seed: bytes = field(repr=False)
    """The private half of the invitation's key."""

    def certificate(self, peer: PeerId) -> Certificate:
        """The certificate with which `peer` joins the run. Raises InviteError if the invite is for another peer."""
        if self.invitation.peer not in ("", peer):
            raise InviteError(
                "this invite is for another peer",
                f"it is for {self.invitation.peer}, and this peer is {peer}",
                "join with the key of that peer (--identity ITS_KEY_FILE), or ask for an invite of your own",
            )
        return Certificate.of(self.invitation, self.seed, peer)


@dataclass(frozen=True, slots=True)
class Invite:
    """Where to find a swarm, and which run to join there; `run` is None for a bootstrap node."""

    run: Digest | None
    addresses: tuple[str, ...]
    """libp2p multiaddrs that end in /p2p/<peer id>."""
    ticket: Ticket | None = None
    """What lets a newcomer into a private run; None for a public one."""

    def swarm(self) -> tuple[str, ...]:
        """The addresses, for a command that looks into the swarm or starts something new in it. Raises InviteError if
        the invite leads into a private run, which has a swarm of its own."""
        if self.ticket is not None:
            raise InviteError(
                "this is an invite into a private run, not the address of a swarm",
                "the swarm of a private run has no other runs in it and no bootstrap nodes",
                "to join the run: p2ptrain join INVITE. A bootstrap node starts without an invite, and members reach "
                "it with p2ptrain peer RUN --bootstrap ITS_INVITE",
            )
        return self.addresses

    def __str__(self) -> str:
        peers: dict[bytes, list[str]] = {}
        for address in self.addresses[:MAX_ADDRESSES]:
            place, _, peer = address.rpartition("/p2p/")
            peers.setdefault(peer_id_to_bytes(PeerId(peer)), []).append(place)
        fields: list[Any] = [self.run or b"", list(peers.items())]
        if self.ticket is not None:
            fields.append(_packed(self.ticket))
        payload: bytes = msgpack.packb(fields)
        version = PUBLIC if self.ticket is None else PRIVATE
        return f"{SCHEME}{version}.{base64.urlsafe_b64encode(payload + _checksum(payload)).decode().rstrip('=')}"

    @classmethod
    def parse(cls, link: str) -> Self:
        """Read a link. Raises InviteError if the link is no invite, is damaged, or has a version that this program
        can't read."""
        link = link.strip()
        if not link.startswith(SCHEME) or len(link) > MAX_LINK:
            raise InviteError("this is not an invite", f"an invite begins with {SCHEME}", _NEXT)
        version, dot, text = link.removeprefix(SCHEME).partition(".")
        if version not in (PUBLIC, PRIVATE) and dot:
            raise InviteError(
                f"the invite is of version {version[:20]!r}",
                f"this p2ptrain reads versions {PUBLIC} and {PRIVATE}",
                "update p2ptrain" if version[:20].isdecimal() and int(version[:20]) > int(PRIVATE) else _NEXT,
            )
        try:
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            payload, checksum = data[:-4], data[-4:]
            if not dot or checksum != _checksum(payload):
                raise ValueError("its checksum does not match")
            run, peers, *more = msgpack.unpackb(payload, use_list=False)
            if not isinstance(run, bytes) or len(run) not in (0, DIGEST_BYTES):
                raise ValueError("its run id is malformed")
            addresses = tuple(f"{place}/p2p/{peer_id_from_bytes(peer)}" for peer, places in peers for place in places)
            if len(more) != (version == PRIVATE):
                raise ValueError("its number of parts does not fit its version")
            ticket = _unpacked(run, more[0]) if more else None
        except (ValueError, TypeError, binascii.Error, msgpack.UnpackException, MalformedError) as error:
            raise InviteError("the invite is damaged", str(error)[:200], _NEXT) from None
        if not 0 < len(addresses) <= MAX_ADDRESSES or not all(address.startswith("/") for address in addresses):
            raise InviteError("the invite is damaged", "it holds no usable address", _NEXT)
        return cls(Digest(run) if run else None, addresses, ticket)


def _packed(ticket: Ticket) -> tuple[bytes, bytes, str, int, bytes, bytes]:
    """The ticket's fields; what the link says elsewhere, or what follows from the rest, is left out."""
    invitation = ticket.invitation
    peer = public_bytes_of(invitation.peer) if invitation.peer else b""
    owner = public_bytes_of(invitation.author)
    return owner, ticket.seed, invitation.label, invitation.expires, peer, invitation.signature


def _unpacked(run: bytes, packed: Any) -> Ticket:
    """The ticket in these fields; raises ValueError, TypeError or MalformedError."""
    owner, seed, label, expires, peer, signature = packed
    if not all(isinstance(part, bytes) for part in (owner, seed, peer)) or len(owner) != KEY_BYTES:
        raise ValueError("its key is malformed")
    bearer = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    invitation = Invitation(
        author=peer_id_from_key(owner),
        run=Digest(run),
        bearer=bearer,
        label=label,
        expires=expires,
        peer=peer_id_from_key(peer) if peer else "",
        signature=signature,
    )
    return Ticket(invitation.check_signature(), seed)


def _checksum(payload: bytes) -> bytes:
    return blake3(payload).digest()[:4]
