"""Each check of a private run is removed in turn, and somebody gets in: the tests of outsiders would notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from p2ptrain.errors import MalformedError
from p2ptrain.run import PeerId, digest_of
from p2ptrain.run.access import Access
from p2ptrain.run.certificate import Certificate
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.papers import Papers
from p2ptrain.swarm.private_door import PrivateDoor
from p2ptrain.swarm.relay import Tunnels
from p2ptrain.swarm.seal import Replays
from tests.security.hearing import heard_again, is_heard, opens_what_is_said_now
from tests.security.house import House
from tests.security.outsiders import Outsider, requests, try_to
from tests.security.shown import (
    Shown,
    a_certificate_that_was_revoked,
    a_member_s_certificate,
    a_member_s_invitation_without_its_key,
    an_invitation_of_their_own,
    an_invite_for_somebody_else,
    an_invite_that_has_ended,
    an_invite_that_was_closed,
    an_owner_s_invitation_with_a_signature_of_their_own,
    another_run_s_invite_by_the_same_owner,
    nothing,
)

Make = Callable[..., Outsider]
Remove = Callable[[House, pytest.MonkeyPatch], None]


def patch(target: Any, name: str, value: Any) -> Remove:
    return lambda house, monkeypatch: monkeypatch.setattr(target, name, value)


def in_of(part: str) -> Remove:
    """The open door before a part of the owner's node."""

    def remove(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        swarm = house.owner.run.swarm
        holder, name = {
            "calls": (swarm.rpc, "_gate"),
            "directory": (type(swarm.node.daemon), "_gate"),
        }[part]
        monkeypatch.setattr(holder, name, Door())

    return remove


def no_rule(of: str) -> Remove:
    """Without one of the rules of `Access`: its words are in no refusal any more."""
    rules = Access.standing

    def standing(access: Access, certificate: Certificate, now: float) -> str:
        refusal = rules(access, certificate, now)
        return "" if of in refusal else refusal

    def shut_out(access: Access, peer: str, now: float) -> str:
        refusal = Access.__dict__["_unmutated"](access, peer, now)
        return "" if of in refusal else refusal

    def remove(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Access, "_unmutated", Access.refusal, raising=False)
        monkeypatch.setattr(Access, "standing", standing)
        monkeypatch.setattr(Access, "refusal", shut_out)

    return remove


def any_peer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates count whoever shows them."""
    real = PrivateDoor._judge

    def judge(door: PrivateDoor, peer: PeerId, shown: bytes, passing: bool, tell: bool) -> str:
        try:
            return real(door, peer, shown, passing, tell)
        except MalformedError as error:
            return "" if "another peer's" in error.what else str(error)

    monkeypatch.setattr(PrivateDoor, "_judge", judge)


def any_signature(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2ptrain.run.record.is_signed_by", lambda *_: True)


def any_proof(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2ptrain.run.certificate.is_signed_by", lambda *_: True)


def any_bearer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invites for one peer count for all."""

    def check(certificate: Certificate) -> Certificate:
        certificate.invitation.check_signature()
        return certificate

    monkeypatch.setattr(Certificate, "check", check)


def any_run(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_owner(access: Access, run: bytes, author: str) -> None:
        if author not in access.owners:
            raise MalformedError("not an owner's")

    monkeypatch.setattr(Access, "_check_owner", check_owner)


def any_owner(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_owner(access: Access, run: bytes, author: str) -> None:
        if run != access.run:
            raise MalformedError("another run's")

    monkeypatch.setattr(Access, "_check_owner", check_owner)


def everybody(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks is let in."""
    monkeypatch.setattr(PrivateDoor, "refusal", lambda door, peer: "")


INTRODUCTIONS: dict[str, tuple[Remove, Shown]] = {
    "who signs as an owner": (any_owner, an_invitation_of_their_own),
    "the owner's signature": (any_signature, an_owner_s_invitation_with_a_signature_of_their_own),
    "the invite's key": (any_proof, a_member_s_invitation_without_its_key),
    "who shows a certificate": (any_peer, a_member_s_certificate),
    "whom an invite is for": (any_bearer, an_invite_for_somebody_else),
    "when an invite ends": (no_rule("has ended"), an_invite_that_has_ended),
    "which invites are closed": (no_rule("was closed"), an_invite_that_was_closed),
    "which run it is": (any_run, another_run_s_invite_by_the_same_owner),
    "who is revoked": (no_rule("revoked"), a_certificate_that_was_revoked),
    "that a certificate is needed": (everybody, nothing),
}
"""Checks of what is shown: without them, who shows this is let in."""


@pytest.mark.parametrize("check", INTRODUCTIONS)
def test_with_a_check_of_papers_removed_somebody_is_let_in(
    house: House, outsider: Make, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    remove, shown = INTRODUCTIONS[check]
    them = outsider()
    certificate = shown(house, them)
    remove(house, monkeypatch)
    assert them.introduce(house.victim, certificate, passing=True) == ""


PLACES: dict[str, tuple[Remove, tuple[str, ...]]] = {
    "before calls": (in_of("calls"), tuple(requests(digest_of(b"")))),
    "before the directory's calls": (
        in_of("directory"),
        ("ping the directory", "read the directory", "write to the directory"),
    ),
    "before a call to others": (patch(PrivateDoor, "meet", Door.meet), ("be asked", "be asked by the directory")),
    "who may lead tunnels here": (patch(Tunnels, "_is_from_relay", lambda *_: True), ("dig a tunnel",)),
    "the seal": (patch(PrivateDoor, "seal", Door.seal), ("overhear",)),
}
"""Places of the door: without it there, a stranger gets through."""


@pytest.mark.parametrize("place", PLACES)
def test_with_the_door_removed_somewhere_strangers_get_through(
    house: House, outsider: Make, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    remove, attempts = PLACES[place]
    them, victim = outsider(), house.victim
    remove(house, monkeypatch)
    assert [attempt for attempt in attempts if not try_to(attempt, them, victim)] == []


def test_without_a_look_at_who_speaks_a_revoked_member_is_heard(
    house: House, outsider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the key of before, which is read for another minute."""
    them = outsider()
    a_certificate_that_was_revoked(house, them)
    monkeypatch.setattr(house.owner.membership, "_door", Unguarded(house.owner.door))
    assert is_heard(house, them)


class Unguarded:
    """A private door that refuses nobody."""

    def __init__(self, door: PrivateDoor) -> None:
        self._door = door

    def refusal(self, peer: str) -> str:
        return ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._door, name)


def test_without_the_seal_s_own_check_strangers_are_heard(
    house: House, outsider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody looked at who speaks, the seal would still stop whoever has no key."""
    them = outsider()
    unguarded = Unguarded(house.owner.door)
    monkeypatch.setattr(house.owner.membership, "_door", unguarded)
    assert not is_heard(house, them)
    monkeypatch.setattr(unguarded, "unseal", lambda topic, origin, data: data, raising=False)
    assert is_heard(house, them)


def test_without_a_new_key_a_revoked_member_would_read_on(
    house: House, outsider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Papers, "_use_newest_key", lambda papers: None)
    assert opens_what_is_said_now(house, outsider())


def test_without_the_count_of_messages_they_are_heard_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replays, "is_new", lambda *_: True)
    assert heard_again(house)
