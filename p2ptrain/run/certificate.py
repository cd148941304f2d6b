"""The papers of a private run: owner → invite → peer, and orders that take membership back. All are checked offline.

Invitation    an owner signs the public half of a key that was made for this invite; the link holds the private half
Certificate   the peer that has the link signs its own peer id with that key: a chain that ends at an owner's key
Order         an owner shuts out peers and closes invites; then the key of the run's gossip changes
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
"""The most peers, invites, and peers who stay that one order can name."""

Key = Annotated[bytes, Field(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Moment = Annotated[int, Field(ge=0, lt=253_402_300_800)]
"""Seconds since 1970, up to the year 9999, the last one that Python's dates know."""


def _check_peer_or_nobody(text: str) -> str:
    return text and check_peer_id(text)


class Invitation(SignedRecord):
    """An owner says: whoever holds the private half of the key `bearer` may take part."""

    kind: ClassVar[str] = "invitation/1"
    max_bytes: ClassVar[int] = 512

    run: DigestField
    bearer: Key
    """The public half of the invite's Ed25519 key. It is the invite's name, too."""
    label: Name
    """The owner's name for it, shown in lists."""
    expires: Moment
    """Peers that came by this invite are members until then, unless an owner renews it."""
    peer: Annotated[str, AfterValidator(_check_peer_or_nobody)] = ""
    """The only peer that may use it; empty if everybody who has the link may."""


class Certificate(Record):
    """A peer's membership: the invitation, and the peer's id signed with the invite's own key."""

    kind: ClassVar[str] = "certificate/1"
    max_bytes: ClassVar[int] = 1024

    invitation: Invitation
    peer: PeerIdField
    proof: Annotated[bytes, Field(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]

    @classmethod
    def of(cls, invitation: Invitation, seed: bytes, peer: PeerId) -> Self:
        """Make the certificate of a peer. `seed` is the private half of the invite's key, 32 bytes."""
        key = SigningKey(Ed25519PrivateKey.from_private_bytes(seed))
        return cls(invitation=invitation, peer=peer, proof=key.sign(_proven(invitation, peer)))

    @property
    def claim(self) -> Digest:
        """Names the peer and the invitation together, without the proof."""
        return digest_of(_proven(self.invitation, self.peer))

    def check(self) -> Self:
        """Check all signatures, from the invitation's author to this peer; raises MalformedError if one is wrong.

        `Access` checks whether that author is an owner and whether the certificate still counts.
        """
        invitation = self.invitation.check_signature()
        if invitation.peer not in ("", self.peer):
            raise MalformedError("a certificate is for another peer than its invite", self.peer)
        bearer = peer_id_from_key(invitation.bearer)
        if not is_signed_by(bearer, self.proof, _proven(invitation, self.peer)):
            raise MalformedError("a certificate is not signed with its invite's key", self.peer)
        return self


class Order(SignedRecord):
    """An owner shuts out peers for good, and closes invites to all peers but those who stay."""

    kind: ClassVar[str] = "access-order/1"

    run: DigestField
    time: Moment
    """When it was signed, as its author says. Only people read it."""
    peers: Annotated[tuple[PeerIdField, ...], Field(max_length=MOST_SHUT_OUT)]
    closed: Annotated[tuple[Key, ...], Field(max_length=MOST_CLOSED)]
    """The invites that are closed: the public halves of their keys."""
    kept: Annotated[tuple[PeerIdField, ...], Field(max_length=MOST_KEPT)]
    """Members that came by these invites and stay members."""
    secret: DigestField
    """Commitment to 32 random bytes, which are part of the gossip's key from now on (see `access.commitment`)."""


def make_invitation(
    owner: SigningKey, run: Digest, label: str, expires: int, peer: str = ""
) -> tuple[Invitation, bytes]:
    """A new invitation and the private half of its key, 32 bytes, which is put into the link and nowhere else."""
    key, author = Ed25519PrivateKey.generate(), owner.peer_id
    bearer = key.public_key().public_bytes_raw()
    invitation = Invitation(author=author, run=run, bearer=bearer, label=label, expires=expires, peer=peer)
    return invitation.signed(owner), key.private_bytes_raw()


def certify(owner: SigningKey, run: Digest, label: str, expires: int, peer: PeerId) -> Certificate:
    """A certificate that an owner makes for a peer without a link: to renew a membership, or to look into the run."""
    invitation, seed = make_invitation(owner, run, label, expires, peer)
    return Certificate.of(invitation, seed, peer)


def _proven(invitation: Invitation, peer: PeerId) -> bytes:
    return b"p2ptrain certificate " + invitation.digest + peer.encode()
