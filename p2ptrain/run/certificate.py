"""The papers of a private run: owner → invite → peer, and what an owner takes back. Each is checked offline.

Invitation    an owner signs the public half of a key made for this one invite; the link holds the private half
Certificate   whoever has the link signs its own peer id with it: a chain that ends at an owner's key
Order         an owner shuts out peers and closes invites; with it the key of the run's gossip changes
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, Field

from p2ptrain.errors import MalformedError
from p2ptrain.run.digest import Digest, digest_of
from p2ptrain.run.keys import SIGNATURE_BYTES, PeerId, SigningKey, check_peer_id, is_signed_by, peer_id_from_key
from p2ptrain.run.record import DigestField, Name, PeerIdField, Record, SignedRecord

KEY_BYTES = 32
MOST_SHUT_OUT, MOST_CLOSED, MOST_KEPT = 256, 64, 512
"""Peers, invites, and peers who stay, that one order can name."""

Key = Annotated[bytes, Field(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Moment = Annotated[int, Field(ge=0, lt=253_402_300_800)]
"""Seconds since 1970, up to the last year that has a date in Python."""


def _check_peer_or_nobody(text: str) -> str:
    return text and check_peer_id(text)


class Invitation(SignedRecord):
    """An owner's word that whoever holds the private half of `bearer` may take part."""

    kind: ClassVar[str] = "invitation/1"
    max_bytes: ClassVar[int] = 512

    run: DigestField
    bearer: Key
    """Ed25519, the public half: also the invite's name."""
    label: Name
    """What the owner calls it, for lists."""
    expires: Moment
    """Whoever came by it is a member until then, unless that is renewed."""
    peer: Annotated[str, AfterValidator(_check_peer_or_nobody)] = ""
    """The only peer that it is for; empty: whoever has the link."""


class Certificate(Record):
    """A peer's membership: the invitation, and the peer's id signed with the invite's own key."""

    kind: ClassVar[str] = "certificate/1"
    max_bytes: ClassVar[int] = 1024

    invitation: Invitation
    peer: PeerIdField
    proof: Annotated[bytes, Field(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]

    @classmethod
    def of(cls, invitation: Invitation, seed: bytes, peer: PeerId) -> Self:
        """What the holder of an invite's private key (32 bytes) makes for a peer."""
        key = SigningKey(Ed25519PrivateKey.from_private_bytes(seed))
        return cls(invitation=invitation, peer=peer, proof=key.sign(_proven(invitation, peer)))

    @property
    def claim(self) -> Digest:
        """Who is said to have come by which invitation, whatever the proof."""
        return digest_of(_proven(self.invitation, self.peer))

    def check(self) -> Self:
        """Raises MalformedError unless an owner's signature leads to this peer; whose key counts as an owner's, and
        whether it still holds, `Access` knows."""
        invitation = self.invitation.check_signature()
        if invitation.peer not in ("", self.peer):
            raise MalformedError("a certificate is for another peer than its invite", self.peer)
        bearer = peer_id_from_key(invitation.bearer)
        if not is_signed_by(bearer, self.proof, _proven(invitation, self.peer)):
            raise MalformedError("a certificate is not signed with its invite's key", self.peer)
        return self


class Order(SignedRecord):
    """An owner shuts out peers, for good, and closes invites to everybody but those who stay."""

    kind: ClassVar[str] = "access-order/1"

    run: DigestField
    time: Moment
    """For people."""
    peers: Annotated[tuple[PeerIdField, ...], Field(max_length=MOST_SHUT_OUT)]
    closed: Annotated[tuple[Key, ...], Field(max_length=MOST_CLOSED)]
    """Invites, by the public halves of their keys."""
    kept: Annotated[tuple[PeerIdField, ...], Field(max_length=MOST_KEPT)]
    """Members who came by these invites and stay."""
    secret: DigestField
    """Commitment (`commitment`) to 32 random bytes, which enter the gossip's key from now on."""


def make_invitation(
    owner: SigningKey, run: Digest, label: str, expires: int, peer: str = ""
) -> tuple[Invitation, bytes]:
    """A new invitation and its private key, 32 bytes, which belongs into the link and nowhere else."""
    bearer = Ed25519PrivateKey.generate()
    public = bearer.public_key().public_bytes_raw()
    invitation = Invitation(
        author=owner.peer_id, run=run, bearer=public, label=label, expires=expires, peer=peer
    ).signed(owner)
    return invitation, bearer.private_bytes_raw()


def certify(owner: SigningKey, run: Digest, label: str, expires: int, peer: PeerId) -> Certificate:
    """What an owner gives a peer without any link: to renew a membership, or to look into the run itself."""
    invitation, seed = make_invitation(owner, run, label, expires, peer)
    return Certificate.of(invitation, seed, peer)


def _proven(invitation: Invitation, peer: PeerId) -> bytes:
    return b"p2ptrain certificate " + invitation.digest + peer.encode()
