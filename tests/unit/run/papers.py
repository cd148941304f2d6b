"""A private run and its people, for tests: an owner who founded it, a second owner, and others."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2ptrain.run import NO_DIGEST, Genesis, PeerId, RunSpec, SigningKey
from p2ptrain.run.access import Access, commitment
from p2ptrain.run.certificate import Certificate, Invitation, Order, make_invitation
from tests.unit.run.specs import spec_with

NOW = 1_800_000_000
"""The time here, in seconds since 1970."""
DAY = 86_400


def key(number: int) -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


OWNER, SECOND, FOUNDER, ANNA, BEN, STRANGER = map(key, range(1, 7))
FOUNDING_SECRET = bytes(range(32))


def private_spec(*owners: SigningKey) -> RunSpec:
    return spec_with({"swarm.access": "private", "swarm.owners": [owner.peer_id for owner in owners]})


def private_run(founder: SigningKey = FOUNDER, *owners: SigningKey) -> tuple[Genesis, RunSpec]:
    """Owned by its founder if no owners are given."""
    spec = private_spec(*owners)
    seal = commitment(FOUNDING_SECRET)
    return Genesis.found(spec, NO_DIGEST, NO_DIGEST, "p2ptrain test", founder, seal=seal), spec


RUN = private_run(FOUNDER, OWNER, SECOND)


def access(*papers: Certificate | Order) -> Access:
    """What somebody knows who has heard of these."""
    return Access.restore(*RUN, papers, (FOUNDING_SECRET,))


def invitation(
    owner: SigningKey = OWNER, label: str = "", expires: int = NOW + DAY, peer: str = ""
) -> tuple[Invitation, bytes]:
    return make_invitation(owner, RUN[0].digest, label, expires, peer)


def certificate(
    peer: SigningKey = ANNA, owner: SigningKey = OWNER, label: str = "", expires: int = NOW + DAY
) -> Certificate:
    made, seed = invitation(owner, label, expires)
    return Certificate.of(made, seed, peer.peer_id)


def order(
    owner: SigningKey = OWNER,
    peers: tuple[PeerId, ...] = (),
    closed: tuple[bytes, ...] = (),
    kept: tuple[PeerId, ...] = (),
    secret: bytes = bytes(32),
) -> Order:
    return Order(
        author=owner.peer_id,
        run=RUN[0].digest,
        time=NOW,
        peers=peers,
        closed=closed,
        kept=kept,
        secret=commitment(secret),
    ).signed(owner)
