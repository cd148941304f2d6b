"""The chain owner → invite → peer: each link of it is somebody's signature, and no other chain is taken for one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.run import digest_of
from p2ptrain.run.access import Paper, read_paper
from p2ptrain.run.certificate import Certificate, Invitation, Order, certify
from tests.unit.run.papers import ANNA, BEN, DAY, NOW, OWNER, RUN, STRANGER, certificate, invitation, order


def test_who_holds_an_invite_makes_its_own_certificate() -> None:
    made, seed = invitation(label="anna")
    one = Certificate.of(made, seed, ANNA.peer_id)
    other = Certificate.of(made, seed, BEN.peer_id)
    for found, key in ((one, ANNA), (other, BEN)):
        again = Certificate.decode(found.encoded).check()
        assert again == found
        assert (again.peer, again.invitation.label) == (key.peer_id, "anna")
    assert len(one.encoded) < 600


def test_an_invite_for_one_peer_is_no_other_s() -> None:
    made, seed = invitation(peer=ANNA.peer_id)
    Certificate.of(made, seed, ANNA.peer_id).check()
    with pytest.raises(MalformedError, match="for another peer than its invite"):
        Certificate.of(made, seed, BEN.peer_id).check()


def test_an_owner_certifies_without_a_link() -> None:
    found = certify(OWNER, RUN[0].digest, "renewed", NOW + DAY, ANNA.peer_id).check()
    assert (found.peer, found.invitation.peer, found.invitation.expires) == (ANNA.peer_id, ANNA.peer_id, NOW + DAY)


def test_a_certificate_from_another_invite_s_key_is_none() -> None:
    made, _ = invitation()
    _, another_seed = invitation()
    with pytest.raises(MalformedError, match="not signed with its invite's key"):
        Certificate.of(made, another_seed, ANNA.peer_id).check()


def changed(found: Certificate, **fields: Any) -> Certificate:
    """Fields of the invitation, or of the certificate itself, in another's hand."""
    own = {name: fields.pop(name) for name in ("peer", "proof") if name in fields and name != "peer"}
    if "holder" in fields:
        own["peer"] = fields.pop("holder")
    return Certificate(
        **{
            "invitation": Invitation(**found.invitation.model_dump() | fields),
            "peer": found.peer,
            "proof": found.proof,
            **own,
        }
    )


CHANGES: dict[str, Any] = {
    "author": STRANGER.peer_id,
    "run": digest_of(b"another run"),
    "bearer": bytes(32),
    "label": "somebody else",
    "expires": NOW + 1000 * DAY,
    "peer": ANNA.peer_id,
    "signature": bytes(64),
    "holder": BEN.peer_id,
    "proof": bytes(64),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_certificate_that_was_changed_anywhere_is_none(field: str) -> None:
    forged = changed(certificate(ANNA), **{field: CHANGES[field]})
    with pytest.raises(MalformedError, match="not signed"):
        forged.check()


def test_a_stranger_s_invitation_is_signed_by_nobody_else() -> None:
    made, seed = invitation(STRANGER)
    found = Certificate.of(made, seed, ANNA.peer_id).check()
    assert found.invitation.author == STRANGER.peer_id, "who counts as an owner is for Access to say"


@pytest.mark.parametrize("expires", [-1, 253_402_300_800, 2**60])
def test_an_invitation_ends_in_a_year_that_has_a_name(expires: int) -> None:
    with pytest.raises(ValueError, match="expires"):
        invitation(expires=expires)


@given(st.binary(max_size=2000))
def test_random_bytes_are_no_paper(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read_paper(data)


def checked(data: bytes) -> Paper:
    found = read_paper(data)
    return found.check() if isinstance(found, Certificate) else found.check_signature()


@given(st.data())
def test_a_paper_with_a_flipped_bit_is_none(data: st.DataObject) -> None:
    for paper in (certificate(), order(peers=(ANNA.peer_id,))):
        raw = bytearray(paper.encoded)
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        with pytest.raises(MalformedError):
            checked(bytes(raw))


def test_an_order_survives_the_wire() -> None:
    said = order(peers=(ANNA.peer_id,), closed=(bytes(32),), kept=(BEN.peer_id,))
    assert Order.decode(said.encoded).check_signature() == said
    assert read_paper(said.encoded) == said
