"""Who may take part in a private run, and the key of its gossip. Pure: no network, no files, no clock.

A peer knows certificates and owners' orders, all of them signed, and the secrets that the orders commit to. Papers are
only ever added, and their order does not matter. So peers that know the same papers agree about every member and on
the key:

    key = BLAKE3-derive-key("p2ptrain 2026 gossip key", run ‖ founding secret ‖ each order's secret, by commitment)

A peer that an order shuts out never gets the secret of that order. Without it the peer can't make any later key. This
holds also if two owners shut out two peers at the same moment.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Self

from blake3 import blake3

from p2ptrain.errors import MalformedError
from p2ptrain.run.certificate import KEY_BYTES, Certificate, Order
from p2ptrain.run.digest import Digest, digest_of
from p2ptrain.run.genesis import Genesis
from p2ptrain.run.keys import PeerId, short_peer
from p2ptrain.run.record import kind_of
from p2ptrain.run.spec import RunSpec

TOLERANCE = 3600
"""Seconds that a certificate still counts after its end, because clocks differ."""
MOST_CERTIFICATES, MOST_ORDERS = 4096, 1024
MOST_BY_INVITE = 128
"""Most peers that can come by one invite. Whoever holds an invite can make any number of peer ids."""
OWNERS_CERTIFICATES = 1024
"""How many of the certificates are kept free for invites for one named peer. Only owners can make those."""
STRANGER = "introduce yourself"
"""The refusal for a peer that has shown no certificate. With one, it may try again."""
REVOKED = "revoked"
"""The refusal of a peer that is shut out for good begins with this."""

Paper = Certificate | Order


class TooManyError(MalformedError):
    """A paper is valid, but the run already has the most papers of its kind."""


Role = Literal["owner", "founder", "member"]


@dataclass(frozen=True, slots=True)
class Epoch:
    """The key of the gossip until the next order."""

    name: bytes
    """8 bytes; the same on all peers that know the same orders."""
    key: bytes


@dataclass(frozen=True, slots=True)
class Member:
    """A peer that is or was in the run, for lists."""

    peer: PeerId
    role: Role
    label: str
    """The label of its invite."""
    invited_by: str
    """The owner's peer id; empty for owners and the founder."""
    expires: int | None
    refusal: str
    """Why it may not take part; empty if it may."""


def commitment(secret: bytes) -> Digest:
    """The commitment to a secret, which an order or a genesis publishes."""
    return Digest(blake3(secret, derive_key_context="p2ptrain 2026 access secret").digest())


def owners_of(genesis: Genesis, spec: RunSpec) -> frozenset[PeerId]:
    """The peers whose signature admits and shuts out: those that the spec names, else the founder."""
    return frozenset(spec.swarm.owners or (genesis.author,))


class Access:
    """The members of one run, as far as this peer knows. `now` is always in seconds since 1970."""

    def __init__(self, genesis: Genesis, spec: RunSpec) -> None:
        self.genesis, self.spec = genesis, spec
        self.run, self.founder = genesis.digest, genesis.author
        self.owners = owners_of(genesis, spec)
        self._founding = genesis.seal
        self._papers: dict[Digest, Paper] = {}
        """Orders by their digest, certificates by their `claim`: one claim can have many proofs."""
        self._certificates: dict[PeerId, list[Certificate]] = defaultdict(list)
        self._came: dict[bytes, list[PeerId]] = defaultdict(list)
        """The peers that came by each invite."""
        self._shut_out: dict[PeerId, Order] = {}
        self._closed: dict[bytes, list[Order]] = defaultdict(list)
        self._secrets: dict[Digest, bytes] = {}
        self._wanted = {self._founding}
        """The commitments to all secrets, known here or not."""

    # Learning --------------------------------------------------------------------------------------------------------

    def take(self, paper: Paper) -> bool:
        """Learn a certificate or an order; it does not matter who brings it.

        Returns:
            False if it was known already.

        Raises:
            MalformedError: its signatures are wrong, it is for another run, or it is not from an owner.
            TooManyError: the run already has the most papers of its kind.
        """
        name = paper.claim if isinstance(paper, Certificate) else paper.digest
        if name in self._papers:
            return False
        if isinstance(paper, Certificate):
            self._check_owner(paper.invitation.run, paper.invitation.author)
            self._check_room(paper.check())
            self._certificates[paper.peer].append(paper)
            self._came[paper.invitation.bearer].append(paper.peer)
        else:
            self._check_owner(paper.run, paper.author)
            if len(self._wanted) > MOST_ORDERS:
                raise TooManyError("the run has too many orders", str(MOST_ORDERS))
            self._follow(paper.check_signature())
        self._papers[name] = paper
        return True

    def _check_room(self, certificate: Certificate) -> None:
        invitation, count = certificate.invitation, sum(map(len, self._came.values()))
        if not invitation.peer:
            if len(self._came[invitation.bearer]) >= MOST_BY_INVITE:
                raise TooManyError("too many peers have come by the same invite", str(MOST_BY_INVITE))
            count += OWNERS_CERTIFICATES
        if count >= MOST_CERTIFICATES:
            raise TooManyError("the run has too many certificates", str(MOST_CERTIFICATES))

    def _check_owner(self, run: bytes, author: str) -> None:
        if run != self.run:
            raise MalformedError("a paper is of another run")
        if author not in self.owners:
            raise MalformedError("a paper is not signed by an owner of the run", author)

    def _follow(self, order: Order) -> None:
        for peer in order.peers:
            if peer not in self.owners:  # owners are named by the genesis, so no order can shut one out
                self._shut_out.setdefault(peer, order)
        for invite in order.closed:
            self._closed[invite].append(order)
        self._wanted.add(order.secret)

    def take_secret(self, secret: bytes) -> bool:
        """Learn a secret of 32 bytes. Returns False if it was known, or if no order and no genesis commits to it."""
        name = commitment(secret)
        if name in self._secrets or name not in self._wanted or len(secret) != KEY_BYTES:
            return False
        self._secrets[name] = secret
        return True

    # Asking ----------------------------------------------------------------------------------------------------------

    def refusal(self, peer: PeerId, now: float) -> str:
        """Why a peer may not take part; empty if it may."""
        if order := self._shut_out.get(peer):
            return f"{REVOKED} by the owner {short_peer(order.author)} on {day(order.time)}"
        if peer in self.owners or peer == self.founder:
            return ""
        reasons = [self.standing(certificate, now) for certificate in self._certificates.get(peer, ())]
        return STRANGER if not reasons else min(reasons)

    def judge(self, certificate: Certificate, now: float) -> str:
        """Why this certificate does not let its peer in; empty if it does. It need not be known here.

        Raises:
            MalformedError: its signatures are wrong, it is for another run, or no owner made its invite.
        """
        self._check_owner(certificate.invitation.run, certificate.invitation.author)
        return self.standing(certificate.check(), now)

    def standing(self, certificate: Certificate, now: float) -> str:
        """As `judge`, for a certificate whose signatures have been checked."""
        if certificate.peer in self._shut_out:
            return self.refusal(certificate.peer, now)
        invitation = certificate.invitation
        for order in self._closed.get(invitation.bearer, ()):
            if certificate.peer not in order.kept:
                owner = short_peer(order.author)
                return f"its invite was closed by the owner {owner} on {day(order.time)}, before it came"
        if now > invitation.expires + TOLERANCE:
            return f"its invite has ended on {moment(invitation.expires)}, and here it is {moment(now)}"
        return ""

    def knows(self, peer: PeerId) -> bool:
        """Whether a peer is or was a member: only then can the run's past hold records that it signed."""
        return peer in self._certificates or peer in self.owners or peer == self.founder

    def is_out(self, peer: PeerId, now: float) -> bool:
        """Whether a peer was a member and is not any more: it was revoked, or no certificate of it counts."""
        return self.refusal(peer, now) not in ("", STRANGER)

    def certificate_of(self, peer: PeerId, now: float) -> Certificate | None:
        """The certificate that lets a peer in for longest, or did; None for owners, the founder and strangers."""
        held = self._certificates.get(peer, ())
        return max(held, key=lambda each: (not self.standing(each, now), each.invitation.expires), default=None)

    def order_against(self, peer: PeerId) -> Order | None:
        """The order that shuts a peer out, to be shown to it; None if there is none."""
        if order := self._shut_out.get(peer):
            return order
        closed = (self._closed.get(each.invitation.bearer, ()) for each in self._certificates.get(peer, ()))
        return next((order for orders in closed for order in orders if peer not in order.kept), None)

    def came_by(self, invite: bytes) -> list[PeerId]:
        """The peers that have a certificate by this invite."""
        return list(self._came.get(invite, ()))

    def invites_of(self, peer: PeerId) -> set[bytes]:
        """The invites of which a peer has a certificate."""
        return {certificate.invitation.bearer for certificate in self._certificates.get(peer, ())}

    def is_closed(self, invite: bytes) -> bool:
        return bool(self._closed.get(invite))

    def members(self, now: float) -> list[Member]:
        """All peers that are or were in the run: owners, the founder, then the others by label."""
        found = []
        for peer in sorted(self.owners | {self.founder} | self._certificates.keys()):
            role: Role = "owner" if peer in self.owners else "founder" if peer == self.founder else "member"
            held = self.certificate_of(peer, now) if role == "member" else None
            said = held.invitation if held else None
            label, by, expires = (said.label, said.author, said.expires) if said else ("", "", None)
            found.append(Member(peer, role, label, by, expires, self.refusal(peer, now)))
        return sorted(found, key=lambda each: (["owner", "founder", "member"].index(each.role), each.label, each.peer))

    # Telling ---------------------------------------------------------------------------------------------------------

    @property
    def orders(self) -> list[Order]:
        return [paper for paper in self._papers.values() if isinstance(paper, Order)]

    @property
    def certificates(self) -> list[Certificate]:
        return [paper for paper in self._papers.values() if isinstance(paper, Certificate)]

    def papers(self) -> Iterator[Paper]:
        """All papers that are known here, orders first."""
        yield from self.orders
        yield from self.certificates

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return tuple(self._secrets.values())

    @property
    def digest(self) -> Digest:
        """Names the set of papers: equal on all peers that know the same ones."""
        return digest_of(b"".join(sorted(self._papers)))

    @property
    def lacks_secrets(self) -> bool:
        return self._wanted != self._secrets.keys()

    def epoch(self) -> Epoch | None:
        """The newest key that the secrets known here make; None if the founding secret is not known.

        An order shuts peers out at once, also if its secret is not known yet. The key changes only when the secret is
        known.
        """
        if self._founding not in self._secrets:
            return None
        later = sorted(name for name in self._secrets if name != self._founding)
        hasher = blake3(self.run + self._secrets[self._founding], derive_key_context="p2ptrain 2026 gossip key")
        for name in later:
            hasher.update(self._secrets[name])
        return Epoch(digest_of(b"".join([self.run, *later]))[:8], hasher.digest())

    @classmethod
    def restore(cls, genesis: Genesis, spec: RunSpec, papers: Iterable[Paper], secrets: tuple[bytes, ...]) -> Self:
        """Build it from papers and secrets that were kept on disk.

        Raises:
            MalformedError: one of the papers is damaged.
        """
        access = cls(genesis, spec)
        for paper in papers:
            access.take(paper)
        for secret in secrets:
            access.take_secret(secret)
        return access


def read_paper(data: bytes) -> Paper:
    """Decode a certificate or an order; raises MalformedError if it is neither. `Access.take` checks its signatures."""
    return Order.decode(data) if kind_of(data) == Order.kind else Certificate.decode(data)


def day(seconds: float) -> str:
    """The date in UTC, e.g. 2027-01-31."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d")


def moment(seconds: float) -> str:
    """Date and time in UTC, e.g. 2027-01-31 18:05 UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
