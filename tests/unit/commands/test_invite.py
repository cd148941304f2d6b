"""`p2ptrain invite` and `p2ptrain members`: what an owner does beside a running peer, or without any."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2ptrain.commands import invite as inviting
from p2ptrain.commands import revoke as revoking
from p2ptrain.commands.invite import close_invite, make_invite, renew, show_invites
from p2ptrain.commands.members import show_members
from p2ptrain.errors import AccessError, IdentityError, NetworkError, StorageError, UsageError
from p2ptrain.run import NO_DIGEST, Genesis, PeerId, SigningKey
from p2ptrain.run.access import Access, Paper, commitment
from p2ptrain.run.certificate import Certificate, Order
from p2ptrain.state import RunFolder
from p2ptrain.state.contact import Contact
from p2ptrain.state.members import MembersFile
from p2ptrain.swarm import Invite
from p2ptrain.swarm.private_door import Pass, PrivateDoor
from tests.unit.commands.others import Others
from tests.unit.run.papers import ANNA, BEN, FOUNDER, FOUNDING_SECRET, OWNER, RUN, STRANGER, certificate, order
from tests.unit.run.specs import spec_with

Out = pytest.CaptureFixture[str]


def at(peer: SigningKey, host: str = "192.0.2.1") -> str:
    return f"/ip4/{host}/tcp/31337/p2p/{peer.peer_id}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """The founder's, who is no owner; its peer runs, and Anna and Ben are members."""
    made = RunFolder.create(tmp_path / "home", *RUN, FOUNDER.peer_id)
    known = Access.restore(*RUN, (certificate(ANNA, label="anna"), certificate(BEN, label="ben")), (FOUNDING_SECRET,))
    MembersFile.begin(made.path, known, None)
    key = tmp_path / "founder.key"
    key.write_bytes(FOUNDER.to_file_bytes())
    own = (at(FOUNDER), at(FOUNDER, "10.0.0.1"), at(FOUNDER, "10.0.0.2"))
    others = (at(ANNA, "10.0.0.3"), at(ANNA, "8.8.4.4"), at(BEN))
    Contact(peer=FOUNDER.peer_id, identity=str(key), addresses=own, peers=others).write(made.path)
    yield made
    made.close()


@pytest.fixture
def owners(tmp_path: Path) -> Path:
    """An owner's key, on this machine for a moment."""
    path = tmp_path / "owner.key"
    path.write_bytes(OWNER.to_file_bytes())
    return path


def test_an_invite_needs_no_network_and_leads_to_several_peers(folder: RunFolder, owners: Path) -> None:
    made = make_invite(folder.path, "carla", 30.0, None, owners)
    again = Invite.parse(str(made))
    assert again == made
    assert again.run == folder.run
    assert again.addresses == (at(FOUNDER), at(FOUNDER, "10.0.0.1"), at(ANNA, "8.8.4.4"), at(BEN))
    assert again.ticket is not None
    invitation = again.ticket.invitation
    assert (invitation.author, invitation.label, invitation.peer) == (OWNER.peer_id, "carla", "")
    assert abs(invitation.expires - time.time() - 30 * 86_400) < 60


def test_an_invite_does_not_lead_to_who_is_out(folder: RunFolder, owners: Path) -> None:
    file = MembersFile(folder.path, *RUN)
    file.save(tuple(p.encoded for p in (*file.access.papers(), order(peers=(BEN.peer_id,)))), (FOUNDING_SECRET,))
    made = make_invite(folder.path, "carla", None, None, owners)
    assert made.addresses == (at(FOUNDER), at(FOUNDER, "10.0.0.1"), at(ANNA, "8.8.4.4"))


def test_a_membership_lasts_ninety_days_if_nothing_is_said(folder: RunFolder, owners: Path) -> None:
    ticket = make_invite(folder.path, "", None, None, owners).ticket
    assert ticket is not None
    assert abs(ticket.invitation.expires - time.time() - 90 * 86_400) < 60


def test_an_invite_can_be_for_one_peer(folder: RunFolder, owners: Path) -> None:
    ticket = make_invite(folder.path, "", 1.0, STRANGER.peer_id, owners).ticket
    assert ticket is not None
    assert ticket.invitation.peer == STRANGER.peer_id
    with pytest.raises(UsageError, match="can't be invited"):
        make_invite(folder.path, "", 1.0, "12D3KooWnobody", owners)


def test_who_is_no_owner_does_not_invite(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="only an owner of the run can do that") as refusal:
        make_invite(folder.path, "", 1.0, None, None)  # with the founder's key, which the folder knows
    assert FOUNDER.peer_id in refusal.value.why
    with pytest.raises(IdentityError, match=r"missing\.key"):
        make_invite(folder.path, "", 1.0, None, tmp_path / "missing.key")


def test_a_folder_that_knows_no_address_says_so(folder: RunFolder, owners: Path) -> None:
    Contact(peer=FOUNDER.peer_id).write(folder.path)
    with pytest.raises(NetworkError, match="knows no address"):
        make_invite(folder.path, "", 1.0, None, owners)


def test_a_public_run_s_invite_is_its_addresses(tmp_path: Path) -> None:
    spec = spec_with()
    genesis = Genesis.found(spec, NO_DIGEST, NO_DIGEST, "p2ptrain test", FOUNDER)
    folder = RunFolder.create(tmp_path, genesis, spec, FOUNDER.peer_id)
    folder.close()
    public = folder.path
    Contact(peer=FOUNDER.peer_id, addresses=(at(FOUNDER),)).write(public)
    made = make_invite(public, "", None, None, None)
    assert (made.ticket, made.addresses) == (None, (at(FOUNDER),))
    for label, days, peer in (("anna", None, None), ("", 90.0, None), ("", None, ANNA.peer_id)):
        with pytest.raises(UsageError, match="mean nothing for a public run"):
            make_invite(public, label, days, peer, None)
    with pytest.raises(AccessError, match="no list of members"):
        show_members(public, json_lines=False)


# Lists ---------------------------------------------------------------------------------------------------------------


def test_members_are_listed_with_role_invite_end_and_state(folder: RunFolder, capsys: Out) -> None:
    file = MembersFile(folder.path, *RUN)
    file.save(tuple(p.encoded for p in (*file.access.papers(), order(peers=(BEN.peer_id,)))), (FOUNDING_SECRET,))
    show_members(folder.path, json_lines=True)
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["role"], each["label"]) for each in listed] == [
        ("owner", ""),
        ("owner", ""),
        ("founder", ""),
        ("member", "anna"),
        ("member", "ben"),
    ]
    assert listed[-1]["refusal"].startswith("revoked by the owner")
    assert listed[-2]["invited_by"] == OWNER.peer_id
    show_members(folder.path, json_lines=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert f"peer={ANNA.peer_id[-6:]}  role=member  invite=anna" in lines[3]


def test_invites_are_listed_with_what_became_of_them(folder: RunFolder, owners: Path, capsys: Out) -> None:
    show_invites(folder.path, json_lines=False)
    assert capsys.readouterr().out == "no invites were made here\n"
    used, closed, ended = (
        make_invite(folder.path, label, days, None, owners).ticket
        for label, days in (("used", 30.0), ("closed", 30.0), ("ended", 0.0))
    )
    assert used
    assert closed
    assert ended
    file = MembersFile(folder.path, *RUN)
    papers: list[Paper] = [
        *file.access.papers(),
        used.certificate(STRANGER.peer_id),
        order(closed=(closed.invitation.bearer,)),
    ]
    file.save(tuple(paper.encoded for paper in papers), (FOUNDING_SECRET,))
    show_invites(folder.path, json_lines=True)
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["label"], each["state"], each["peers"]) for each in listed] == [
        ("used", "open", [STRANGER.peer_id]),
        ("closed", "closed", []),
        ("ended", "ended", []),
    ]


# What members are given ----------------------------------------------------------------------------------------------


@pytest.fixture
def given(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Paper, bytes]]:
    """What was handed to two members who are there."""
    handed: list[tuple[Paper, bytes]] = []
    others: Any = Others([ANNA.peer_id, BEN.peer_id])
    others.door = PrivateDoor(FOUNDER.peer_id, Pass(folder.run), MembersFile(folder.path, *RUN).access)

    async def give(peer: PeerId, paper: Paper, secret: bytes = b"") -> None:
        if (paper, secret) not in handed:
            handed.append((paper, secret))

    async def pull(peer: PeerId) -> None:
        pass

    monkeypatch.setattr(others.door.papers, "give", give)
    monkeypatch.setattr(others.door.papers, "pull", pull)
    monkeypatch.setattr(inviting, "visit", lambda folder, key: contextlib.nullcontext(others))
    monkeypatch.setattr("tests.unit.commands.others.KEY_OF", {key.peer_id: key for key in (ANNA, BEN)})
    return handed


def test_a_renewal_is_a_certificate_from_the_owner_herself(
    folder: RunFolder, owners: Path, given: list[tuple[Paper, bytes]]
) -> None:
    told = renew(folder.path, "anna", 365.0, owners)
    assert told.startswith(f"{ANNA.peer_id[-6:]} is a member until ")
    assert told.endswith("; 2 peers were told and pass it on")
    [(paper, _)] = given
    assert isinstance(paper, Certificate)
    assert paper.check().peer == ANNA.peer_id
    assert paper.invitation.expires - time.time() > 364 * 86_400
    for who in (OWNER.peer_id, FOUNDER.peer_id):
        with pytest.raises(AccessError, match="needs no renewal"):
            renew(folder.path, who, 1.0, owners)


def test_who_was_revoked_is_not_renewed(folder: RunFolder, owners: Path) -> None:
    file = MembersFile(folder.path, *RUN)
    file.save(tuple(p.encoded for p in (*file.access.papers(), order(peers=(BEN.peer_id,)))), (FOUNDING_SECRET,))
    with pytest.raises(AccessError, match="was revoked"):
        renew(folder.path, "ben", 1.0, owners)


def test_who_is_revoked_of_a_run_without_records_has_none_to_keep(
    folder: RunFolder, owners: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out: list[tuple[PeerId, ...]] = []

    def shut_out(
        swarm: object, key: SigningKey, peers: tuple[PeerId, ...], companions: bool = False
    ) -> tuple[Order, int]:
        out.append(peers)
        return order(peers=peers), 1

    monkeypatch.setattr(revoking, "visit", lambda folder, key: contextlib.nullcontext())
    monkeypatch.setattr(revoking, "shut_out", shut_out)
    with pytest.raises(UsageError, match="no records to keep"):
        revoking.revoke(folder.path, "anna", 0, False, owners)
    assert out == []
    told = revoking.revoke(folder.path, "anna", None, False, owners)
    assert told == f"{ANNA.peer_id[-6:]} is revoked; 1 peer was told and passes it on"
    assert out == [(ANNA.peer_id,)]


def test_a_closed_invite_keeps_who_came_by_it(
    folder: RunFolder, owners: Path, given: list[tuple[Paper, bytes]]
) -> None:
    ticket = make_invite(folder.path, "carla", 30.0, None, owners).ticket
    assert ticket is not None
    told = close_invite(folder.path, "carla", owners)
    assert told == "the invite carla is closed; 2 peers were told and pass it on"
    [(paper, secret)] = given
    assert isinstance(paper, Order)
    assert (paper.check_signature().closed, paper.peers) == ((ticket.invitation.bearer,), ())
    assert paper.secret == commitment(secret)
    for wrong in ("nobody's", ""):
        with pytest.raises(StorageError, match="found no invite for"):
            close_invite(folder.path, wrong, owners)
