"""Who is in a private run, and the key of its gossip: the same for everyone who has heard the same papers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.run import SigningKey
from p2ptrain.run import access as rules
from p2ptrain.run.access import STRANGER as UNKNOWN
from p2ptrain.run.access import TOLERANCE, Access, Paper, owners_of
from p2ptrain.run.certificate import Certificate, certify
from tests.unit.run.papers import (
    ANNA,
    BEN,
    DAY,
    FOUNDER,
    FOUNDING_SECRET,
    NOW,
    OWNER,
    RUN,
    SECOND,
    STRANGER,
    access,
    certificate,
    invitation,
    order,
    private_run,
)

SECRETS = [bytes([number]) * 32 for number in range(1, 5)]


def test_owners_and_the_founder_are_in_without_a_certificate() -> None:
    known = access()
    assert [known.refusal(key.peer_id, NOW) for key in (OWNER, SECOND, FOUNDER)] == ["", "", ""]
    assert known.refusal(STRANGER.peer_id, NOW) == UNKNOWN
    assert [member.role for member in known.members(NOW)] == ["owner", "owner", "founder"]


def test_a_run_s_owner_is_its_founder_unless_the_spec_names_others() -> None:
    assert owners_of(*private_run(FOUNDER)) == {FOUNDER.peer_id}
    assert owners_of(*private_run(FOUNDER, OWNER, SECOND)) == {OWNER.peer_id, SECOND.peer_id}


@pytest.mark.parametrize("owner", [OWNER, SECOND])
def test_any_owner_s_invite_lets_its_holder_in(owner: SigningKey) -> None:
    known, paper = access(), certificate(ANNA, owner, "anna")
    assert known.take(paper)
    assert not known.take(paper), "it is known"
    assert known.refusal(ANNA.peer_id, NOW) == ""
    assert known.refusal(BEN.peer_id, NOW) == UNKNOWN
    anna = known.members(NOW)[-1]
    assert (anna.peer, anna.label, anna.invited_by, anna.refusal) == (ANNA.peer_id, "anna", owner.peer_id, "")


NO_OWNERS = {"a stranger's": STRANGER, "a founder's who is no owner": FOUNDER, "a member's": ANNA}


@pytest.mark.parametrize("author", NO_OWNERS.values(), ids=NO_OWNERS)
def test_only_owners_invite_and_revoke(author: SigningKey) -> None:
    known = access(certificate(ANNA))
    for paper in (certificate(BEN, author), order(author, (ANNA.peer_id,))):
        with pytest.raises(MalformedError, match="not signed by an owner"):
            known.take(paper)
    with pytest.raises(MalformedError, match="not signed by an owner"):
        known.judge(certificate(BEN, author), NOW)
    assert known.refusal(BEN.peer_id, NOW) == UNKNOWN
    assert known.refusal(ANNA.peer_id, NOW) == ""


def test_a_paper_of_another_run_or_with_a_forged_signature_is_not_taken() -> None:
    known, elsewhere = access(), private_run(FOUNDER, OWNER)
    foreign = certify(OWNER, elsewhere[0].digest, "", NOW + DAY, ANNA.peer_id)
    said = order(peers=(ANNA.peer_id,))
    forged = type(said)(**said.model_dump() | {"peers": (BEN.peer_id,)})
    for paper, reason in ((foreign, "another run"), (forged, "not signed by its author")):
        with pytest.raises(MalformedError, match=reason):
            known.take(paper)
    assert list(known.papers()) == []


def test_a_membership_ends_an_hour_late_as_clocks_differ_and_says_both_times() -> None:
    known = access(certificate(ANNA, expires=NOW))
    assert known.refusal(ANNA.peer_id, NOW + TOLERANCE) == ""
    assert known.refusal(ANNA.peer_id, NOW + TOLERANCE + 1) == (
        "its invite has ended on 2027-01-15 08:00 UTC, and here it is 2027-01-15 09:00 UTC"
    )
    assert known.take(certify(OWNER, known.run, "", NOW + DAY, ANNA.peer_id)), "renewed"
    assert known.refusal(ANNA.peer_id, NOW + TOLERANCE + 1) == ""


def test_a_revoked_peer_is_out_for_good_whatever_it_shows() -> None:
    made, seed = invitation()
    known = access(Certificate.of(made, seed, ANNA.peer_id), Certificate.of(made, seed, BEN.peer_id))
    said = order(SECOND, (ANNA.peer_id,), (made.bearer,), (BEN.peer_id,))
    assert known.take(said)
    out = f"revoked by the owner {SECOND.peer_id[-6:]} on 2027-01-15"
    assert known.refusal(ANNA.peer_id, NOW) == out
    assert known.refusal(BEN.peer_id, NOW) == "", "who came by the same invite stays"
    late = Certificate.of(made, seed, STRANGER.peer_id)
    assert (
        known.judge(late, NOW) == f"its invite was closed by the owner {SECOND.peer_id[-6:]} on 2027-01-15, "
        "before it came"
    )
    assert known.take(certificate(ANNA)), "a new invite"
    assert known.refusal(ANNA.peer_id, NOW) == out
    assert known.order_against(ANNA.peer_id) == said
    assert known.order_against(BEN.peer_id) is None
    assert known.knows(ANNA.peer_id), "what it has signed before stays part of the run"


def test_a_closed_invite_keeps_only_whom_its_order_names() -> None:
    made, seed = invitation()
    papers = [Certificate.of(made, seed, peer.peer_id) for peer in (ANNA, BEN)]
    known = access(*papers, order(closed=(made.bearer,), kept=(ANNA.peer_id, BEN.peer_id)))
    assert known.refusal(ANNA.peer_id, NOW) == known.refusal(BEN.peer_id, NOW) == ""
    known.take(order(SECOND, closed=(made.bearer,), kept=(ANNA.peer_id,), secret=SECRETS[0]))
    assert known.refusal(ANNA.peer_id, NOW) == ""
    assert known.refusal(BEN.peer_id, NOW).startswith("its invite was closed by the owner " + SECOND.peer_id[-6:])
    assert known.is_closed(made.bearer)
    assert set(known.came_by(made.bearer)) == {ANNA.peer_id, BEN.peer_id}


def test_owners_can_not_be_revoked_and_a_founder_who_is_none_can() -> None:
    known = access(order(SECOND, (OWNER.peer_id, FOUNDER.peer_id)))
    assert known.refusal(OWNER.peer_id, NOW) == ""
    assert known.refusal(FOUNDER.peer_id, NOW).startswith("revoked by the owner")


def test_a_run_takes_only_so_many_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MOST_CERTIFICATES", 4)
    monkeypatch.setattr(rules, "OWNERS_CERTIFICATES", 2)
    monkeypatch.setattr(rules, "MOST_ORDERS", 2)
    known = access(certificate(ANNA), certificate(BEN))
    with pytest.raises(rules.TooManyError, match="too many certificates"):
        known.take(certificate(STRANGER))
    for number in range(2):  # of the owners' own there is still room
        assert known.take(certify(OWNER, RUN[0].digest, "", NOW + DAY + number, STRANGER.peer_id))
    with pytest.raises(rules.TooManyError, match="too many certificates"):
        known.take(certify(OWNER, RUN[0].digest, "", NOW, STRANGER.peer_id))
    for secret in SECRETS[:2]:
        known.take(order(secret=secret))
    with pytest.raises(MalformedError, match="too many orders"):
        known.take(order(secret=SECRETS[2]))


def test_only_so_many_come_by_one_invite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MOST_BY_INVITE", 2)
    made, seed = invitation()
    known = access(*(Certificate.of(made, seed, peer.peer_id) for peer in (ANNA, BEN)))
    with pytest.raises(rules.TooManyError, match="come by the same invite"):
        known.take(Certificate.of(made, seed, STRANGER.peer_id))
    assert known.take(certificate(STRANGER))


def test_one_peer_s_certificate_by_one_invite_counts_once_whatever_its_proof() -> None:
    """Whoever holds the link can sign the same as often as it likes, and each signature is another."""
    first = certificate(ANNA)
    again = Certificate.model_construct(**{**dict(first), "proof": bytes(64)})
    known = access(first)
    before = known.digest
    assert not known.take(again)
    assert known.digest == before
    with pytest.raises(MalformedError, match="not signed with its invite's key"):
        access().take(again)


def test_a_peer_shows_the_certificate_that_lets_it_in_for_longest() -> None:
    made, seed = invitation(expires=NOW + 9 * DAY)
    closed = Certificate.of(made, seed, ANNA.peer_id)
    short, long = certificate(ANNA), certificate(ANNA, expires=NOW + 2 * DAY)
    known = access(short, closed, long)
    assert known.certificate_of(ANNA.peer_id, NOW) == closed
    known.take(order(closed=(made.bearer,)))
    assert known.certificate_of(ANNA.peer_id, NOW) == long
    assert known.certificate_of(STRANGER.peer_id, NOW) is None


# The key -------------------------------------------------------------------------------------------------------------


def test_without_the_founding_secret_there_is_no_key() -> None:
    known = Access(*RUN)
    assert known.epoch() is None
    assert known.lacks_secrets
    assert not known.take_secret(SECRETS[0]), "nobody has committed to it"
    assert known.take_secret(FOUNDING_SECRET)
    assert not known.take_secret(FOUNDING_SECRET)
    assert known.epoch() == access().epoch()
    assert not known.lacks_secrets


def test_an_order_changes_the_key_once_its_secret_is_known() -> None:
    known = access()
    before = known.epoch()
    known.take(order(peers=(ANNA.peer_id,), secret=SECRETS[0]))
    assert known.epoch() == before, "nobody could read another one yet"
    assert known.lacks_secrets
    assert not known.take_secret(SECRETS[1])
    assert known.take_secret(SECRETS[0])
    after = known.epoch()
    assert before is not None
    assert after is not None
    assert before.name != after.name
    assert before.key != after.key


def test_two_that_are_revoked_at_the_same_moment_do_not_know_the_key_of_those_who_stay() -> None:
    """Each of the two orders' secrets is handed out to the peer that the other one revokes."""
    orders = [order(OWNER, (ANNA.peer_id,), secret=SECRETS[0]), order(SECOND, (BEN.peer_id,), secret=SECRETS[1])]
    keys = set()
    for told in ((), (0,), (1,), (0, 1)):
        known = access(*(orders[number] for number in told))
        for number in told:
            known.take_secret(SECRETS[number])
        epoch = known.epoch()
        assert epoch is not None
        keys.add(epoch.key)
    assert len(keys) == 4


PAPERS: list[Paper] = [
    certificate(ANNA),
    certificate(BEN, SECOND),
    *(order((OWNER, SECOND)[n % 2], secret=secret) for n, secret in enumerate(SECRETS)),
    order(peers=(BEN.peer_id,), secret=bytes(32)),
]


@given(st.permutations(PAPERS), st.permutations([FOUNDING_SECRET, *SECRETS, bytes(32)]), st.data())
def test_in_whatever_order_they_are_heard_the_same_papers_mean_the_same(
    papers: list[Paper], secrets: list[bytes], data: st.DataObject
) -> None:
    known = Access(*RUN)
    waiting = list(secrets)
    for paper in papers:
        if waiting and data.draw(st.booleans()):
            known.take_secret(waiting[0])
            waiting.append(waiting.pop(0))
        known.take(paper)
    for secret in secrets:
        known.take_secret(secret)
    expected = access(*PAPERS)
    for secret in [*SECRETS, bytes(32)]:
        expected.take_secret(secret)
    assert known.digest == expected.digest
    assert known.epoch() == expected.epoch()
    assert known.members(NOW) == expected.members(NOW)


def test_every_set_of_papers_has_a_digest_of_its_own() -> None:
    sets = [subset for size in range(4) for subset in itertools.combinations(PAPERS, size)]
    assert len({access(*subset).digest for subset in sets}) == len(sets)
