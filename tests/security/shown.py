"""Papers that outsiders may show at a door, and none of which lets them in."""

from __future__ import annotations

import time
from collections.abc import Callable

from p2ptrain.run import digest_of
from p2ptrain.run.access import TOLERANCE
from p2ptrain.run.certificate import Certificate, Invitation, make_invitation
from p2ptrain.swarm.seal import Seal
from tests.security.house import DAY, House
from tests.security.outsiders import Outsider, known_epoch


def nothing(house: House, outsider: Outsider) -> Certificate | None:
    """As if they were an owner."""
    return None


def an_invitation_of_their_own(house: House, outsider: Outsider) -> Certificate | None:
    made, seed = make_invitation(outsider.key, house.owner.run.id, "", int(time.time()) + DAY)
    return Certificate.of(made, seed, outsider.peer)


def an_owner_s_invitation_with_a_signature_of_their_own(house: House, outsider: Outsider) -> Certificate | None:
    made, seed = house.invitation()
    forged = Invitation(**made.model_dump() | {"label": "forged"})
    return Certificate.of(forged, seed, outsider.peer)


def a_member_s_invitation_without_its_key(house: House, outsider: Outsider) -> Certificate | None:
    shown = house.member.door.certificate
    assert shown is not None
    return Certificate.of(shown.invitation, bytes(32), outsider.peer)


def a_member_s_certificate(house: House, outsider: Outsider) -> Certificate | None:
    return house.member.door.certificate


def an_invite_for_somebody_else(house: House, outsider: Outsider) -> Certificate | None:
    return Certificate.of(*house.invitation(peer=house.member.peer), outsider.peer)


def an_invite_that_has_ended(house: House, outsider: Outsider) -> Certificate | None:
    return Certificate.of(*house.invitation(days=-(TOLERANCE + 60) / DAY), outsider.peer)


def an_invite_that_was_closed(house: House, outsider: Outsider) -> Certificate | None:
    made, seed = house.invitation()
    house.revoke(invite=made.bearer)
    return Certificate.of(made, seed, outsider.peer)


def another_run_s_invite_by_the_same_owner(house: House, outsider: Outsider) -> Certificate | None:
    made, seed = make_invitation(house.key, digest_of(b"another run"), "", int(time.time()) + DAY)
    return Certificate.of(made, seed, outsider.peer)


def a_certificate_that_was_revoked(house: House, outsider: Outsider) -> Certificate | None:
    """They were a member a moment ago, and know the gossip's key of then."""
    found = let_in(house, outsider)
    house.revoke(outsider.peer)
    return found


def let_in(house: House, outsider: Outsider) -> Certificate:
    """A member from now on, who knows the gossip's key."""
    found = Certificate.of(*house.invitation(), outsider.peer)
    house.admit(found)
    outsider.seal = Seal(outsider.run, outsider.peer)
    outsider.seal.boot = 2**40
    outsider.seal.use(known_epoch(house.owner.door.access), 0.0)
    return found


Shown = Callable[[House, Outsider], Certificate | None]
SHOWN: list[Shown] = [
    nothing,
    an_invitation_of_their_own,
    an_owner_s_invitation_with_a_signature_of_their_own,
    a_member_s_invitation_without_its_key,
    a_member_s_certificate,
    an_invite_for_somebody_else,
    an_invite_that_has_ended,
    an_invite_that_was_closed,
    another_run_s_invite_by_the_same_owner,
    a_certificate_that_was_revoked,
]
