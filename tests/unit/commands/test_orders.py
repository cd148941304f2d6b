"""What an owner's order names: who is out, what is closed, and who stays."""

from __future__ import annotations

import pytest

from p2ptrain.commands import orders
from p2ptrain.commands.orders import companions_of, make_order
from p2ptrain.commands.revoke import member_to_shut_out, words_on_others
from p2ptrain.errors import AccessError, StorageError
from p2ptrain.run.access import Access
from p2ptrain.run.certificate import Certificate
from tests.unit.run.papers import ANNA, BEN, FOUNDER, NOW, OWNER, STRANGER, access, certificate, invitation, order

SECRET = bytes(32)


def shared(*more: Certificate) -> tuple[Access, bytes]:
    """Three who came by one link."""
    made, seed = invitation(expires=4_000_000_000)
    papers = (Certificate.of(made, seed, peer.peer_id) for peer in (ANNA, BEN, STRANGER))
    return access(*papers, *more), made.bearer


def test_others_who_came_by_the_same_invite_stay_unless_they_are_named() -> None:
    known, bearer = shared()
    made = make_order(known, OWNER, (ANNA.peer_id,), (), SECRET)
    assert (made.peers, made.closed) == ((ANNA.peer_id,), (bearer,))
    assert set(made.kept) == {BEN.peer_id, STRANGER.peer_id}


def test_with_its_companions_everybody_is_out_who_came_by_the_same_invite() -> None:
    known, bearer = shared()
    others = companions_of(known, (ANNA.peer_id,))
    assert others == {BEN.peer_id, STRANGER.peer_id}
    made = make_order(known, OWNER, (ANNA.peer_id,), (), SECRET, others)
    assert (set(made.peers), made.closed, made.kept) == ({ANNA.peer_id, *others}, (bearer,), ())


def test_of_very_many_companions_those_without_a_place_are_out_by_their_invite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "MOST_SHUT_OUT", 2)
    known, _ = shared()
    made = make_order(known, OWNER, (ANNA.peer_id,), (), SECRET, companions_of(known, (ANNA.peer_id,)))
    assert (made.peers[0], len(made.peers), made.kept) == (ANNA.peer_id, 2, ())
    known.take(made)
    for peer in (ANNA, BEN, STRANGER):
        assert known.refusal(peer.peer_id, NOW)


def test_who_is_out_already_is_not_kept_and_who_was_renewed_is() -> None:
    known, bearer = shared(certificate(BEN, expires=4_000_000_000))
    known.take(order(peers=(STRANGER.peer_id,), closed=(bearer,), kept=(ANNA.peer_id,)))
    assert make_order(known, OWNER, (ANNA.peer_id,), (), SECRET).kept == (BEN.peer_id,)


def test_an_owner_can_not_be_revoked_and_a_founder_who_is_none_can() -> None:
    with pytest.raises(AccessError, match="is an owner of the run"):
        member_to_shut_out(access(), OWNER.peer_id)
    assert member_to_shut_out(access(), FOUNDER.peer_id[-6:]) == FOUNDER.peer_id


def test_what_became_of_others_who_came_by_the_same_invite_is_told() -> None:
    known, _ = shared()
    kept = make_order(known, OWNER, (ANNA.peer_id,), (), SECRET)
    assert words_on_others(kept) == ["not revoked: 2 other members that used the same invite"]
    out = make_order(known, OWNER, (ANNA.peer_id,), (), SECRET, companions_of(known, (ANNA.peer_id,)))
    assert words_on_others(out) == ["also revoked: 2 other members that used the same invite"]
    alone = make_order(access(certificate(BEN)), OWNER, (BEN.peer_id,), (), SECRET)
    assert words_on_others(alone) == []


def test_an_order_keeps_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "MOST_KEPT", 1)
    known, _ = shared()
    with pytest.raises(StorageError, match="2 other members came by the same invites"):
        make_order(known, OWNER, (ANNA.peer_id,), (), SECRET)
