"""Private means private: nobody without a certificate that holds gets anything in or out, whatever they show.

`test_with_a_check_removed_somebody_gets_in` removes each check in turn and sees that the suite would notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from p2ptrain.errors import MalformedError
from p2ptrain.run import PeerId, digest_of
from p2ptrain.run.access import TOLERANCE, Access
from p2ptrain.run.certificate import Certificate, Invitation, make_invitation
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.node import Gossip
from p2ptrain.swarm.papers import Papers
from p2ptrain.swarm.private_door import PrivateDoor
from p2ptrain.swarm.relay import TUNNEL, Tunnels
from p2ptrain.swarm.seal import Replays, Seal
from tests.security.house import DAY, House
from tests.security.outsiders import (
    ATTEMPTS,
    FROM_WITHIN,
    Outsider,
    is_readable,
    known_epoch,
    protocol_of,
    requests,
    try_to,
    words_of,
)
from tests.unit.swarm.conftest import eventually

Make = Callable[..., Outsider]


def test_every_call_that_peers_serve_is_tried(house: House) -> None:
    served = house.owner.run.swarm.node._daemon._client.control.handlers.keys()
    ours = {name for name in served if name.startswith("/p2ptrain/") and name != TUNNEL}
    assert ours == {protocol_of(method) for method in (*requests(house.owner.run.id), "introduce")}


# What outsiders show -------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.__name__)
def test_who_shows_that_is_refused_and_gets_nothing_in_or_out(house: House, outsider: Make, shown: Shown) -> None:
    them, victim = outsider(), house.victim
    certificate = shown(house, them)
    for passing in (True, False):
        assert them.introduce(victim, certificate, passing)
    assert house.owner.door.refusal(them.peer)
    assert [attempt for attempt in (*ATTEMPTS, *FROM_WITHIN) if try_to(attempt, them, victim)] == []
    assert not is_heard(house, them)
    swarm = house.owner.run.swarm
    assert them.peer not in swarm.run(swarm.directory.peers(house.owner.run.id))


def is_heard(house: House, them: Outsider) -> bool:
    """Whether anything that they say to all peers, in clear or sealed as well as they can, counts. What does not is
    counted as dropped, each message of it."""
    membership, messages, words = house.owner.membership, house.owner.ears.messages, words_of(them)

    async def hear_all() -> tuple[list[PeerId], int]:
        """Whose words were heard, and how many were dropped; without a pause, so that nobody else's get between."""
        heard, dropped = len(messages), membership.dropped.total()
        for said in words:
            membership._hear(Gossip(them.peer, said))
        return [origin for origin, _ in messages[heard:]], membership.dropped.total() - dropped

    heard, dropped = house.owner.run.swarm.run(hear_all())
    assert heard == [them.peer] * (len(words) - dropped)
    return bool(heard)


async def _hear(house: House, message: Gossip) -> None:
    """As libp2p delivers it, which has checked who said it."""
    house.owner.membership._hear(message)


def test_a_member_is_heard_when_it_says_the_same(house: House, outsider: Make) -> None:
    """In the same words as outsiders above, and sealed with the run's key."""
    them = outsider()
    assert not is_heard(house, them)
    let_in(house, them)
    assert is_heard(house, them)
    house.revoke(them.peer)
    assert not is_heard(house, them)


def test_what_outsiders_publish_arrives_and_is_dropped(house: House, outsider: Make) -> None:
    them, victim = outsider(), house.owner.run.swarm
    them.swarm.run(them.swarm.node.connect(victim.peer_id, victim.addresses()))
    before = house.owner.membership.dropped["not a member's"]

    def arrived() -> bool:
        for words in words_of(them):
            them.swarm.run(them.swarm.node.publish(them.topic, words))
        return house.owner.membership.dropped["not a member's"] > before

    eventually(arrived)
    assert them.peer not in house.owner.membership.live


def test_a_revoked_member_s_key_opens_nothing_that_is_said_from_now_on(house: House, outsider: Make) -> None:
    assert not opens_what_is_said_now(house, outsider())


def opens_what_is_said_now(house: House, them: Outsider) -> bool:
    a_certificate_that_was_revoked(house, them)
    sealed = house.owner.door.seal(them.topic, words_of(them)[0])
    assert sealed is not None
    return is_readable(them, house.owner.peer, sealed)


def test_a_node_that_never_introduces_itself_is_hung_up_on(
    house: House, outsider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2ptrain.swarm.private_door.HANG_UP_SECONDS", 1.0)
    them, victim = outsider(), house.owner.run.swarm
    them.swarm.run(them.swarm.node.connect(victim.peer_id, victim.addresses()))
    assert victim.peer_id in them.swarm.run(them.swarm.node.connected())
    eventually(lambda: victim.peer_id not in them.swarm.run(them.swarm.node.connected()))


def test_members_go_on_hearing_each_other(house: House) -> None:
    """The outsiders above have changed nothing; also after the key has changed several times."""
    house.revoke()
    before = len(house.owner.ears.messages)
    eventually(lambda: (house.member.peer, "heartbeat") in house.owner.ears.messages[before:])
    assert house.owner.door.access.epoch() == house.member.door.access.epoch()


def test_what_libp2p_delivers_twice_is_heard_once(house: House) -> None:
    """An outsider can't say a member's words again as its own; libp2p checks who said them. But it could bring the
    very message again when libp2p has forgotten it."""
    assert not heard_again(house)


def heard_again(house: House) -> bool:
    """Whether a message of the member's counts a second time; once it does."""
    owner, member = house.owner, house.member
    topic = f"p2ptrain/1/{owner.run.id.hex()}"
    sealed = member.door.seal(topic, b"\x92\xa6mark/1\x80")
    assert sealed is not None
    before = len(owner.ears.messages)
    for _ in range(2):
        owner.run.swarm.run(_hear(house, Gossip(member.peer, sealed)))
    heard = [kind for _, kind in owner.ears.messages[before:]].count("mark/1")
    assert heard >= 1
    return heard > 1


# The mutation list ---------------------------------------------------------------------------------------------------

Remove = Callable[[House, pytest.MonkeyPatch], None]


def patch(target: Any, name: str, value: Any) -> Remove:
    return lambda house, monkeypatch: monkeypatch.setattr(target, name, value)


def in_of(part: str) -> Remove:
    """The open door before a part of the owner's node."""

    def remove(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        swarm = house.owner.run.swarm
        holder, name = {
            "calls": (swarm.rpc, "_door"), "directory": (type(swarm.node._daemon), "_door"),
        }[part]  # fmt: skip
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
        in_of("directory"), ("ping the directory", "read the directory", "write to the directory"),
    ),
    "before a call to others": (patch(PrivateDoor, "meet", Door.meet), ("be asked", "be asked by the directory")),
    "who may lead tunnels here": (patch(Tunnels, "_is_from_relay", lambda *_: True), ("dig a tunnel",)),
    "the seal": (patch(PrivateDoor, "seal", Door.seal), ("overhear",)),
}  # fmt: skip
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
