"""What a peer of a private run keeps about its members survives restarts, copies and crashes."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from p2ptrain.errors import AccessError, StorageError
from p2ptrain.run.access import Access
from p2ptrain.run.certificate import Certificate
from p2ptrain.state import RunFolder
from p2ptrain.state.inviting import DAY, MadeInvites, invite_member
from p2ptrain.state.members import FILE, Members, MembersFile
from tests.unit.run.papers import (
    ANNA,
    BEN,
    FOUNDING_SECRET,
    NOW,
    OWNER,
    RUN,
    access,
    certificate,
    order,
    private_run,
)


def begin(folder: Path, own: Certificate | None = None, known: Access | None = None) -> MembersFile:
    return MembersFile.begin(folder, known or access(*([own] if own else [])), own)


def test_what_is_known_is_known_after_a_restart(tmp_path: Path) -> None:
    own = certificate(ANNA)
    file = begin(tmp_path, own)
    papers = (own, certificate(BEN), order(secret=bytes(32)))
    file.save(tuple(paper.encoded for paper in papers), (FOUNDING_SECRET, bytes(32)))
    again = MembersFile(tmp_path, *RUN)
    expected = access(*papers)
    expected.take_secret(bytes(32))
    assert (again.access.digest, again.access.epoch()) == (expected.digest, expected.epoch())
    assert again.own == own
    assert again.access.refusal(BEN.peer_id, NOW) == ""


def test_who_joins_again_keeps_what_it_knew(tmp_path: Path) -> None:
    file = begin(tmp_path, certificate(ANNA))
    boot = file.next_boot()
    new = certificate(ANNA, label="new")
    again = begin(tmp_path, new)
    assert again.own == new
    assert len(list(again.access.papers())) == 2
    assert again.next_boot() > boot


def test_each_start_has_a_larger_number_whatever_happens_to_clock_or_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = begin(tmp_path)
    copy = (tmp_path / FILE).read_bytes()
    first = file.next_boot()
    monkeypatch.setattr(time, "time", lambda: 1000.0)  # the clock was put back
    second = MembersFile(tmp_path, *RUN).next_boot()
    monkeypatch.undo()
    (tmp_path / FILE).write_bytes(copy)  # an old copy was put back
    monkeypatch.setattr(time, "time", lambda: float(second + 5))
    assert first < second < MembersFile(tmp_path, *RUN).next_boot()


@pytest.mark.parametrize("harm", ["gone", "cut off", "a flipped bit"])
def test_a_damaged_file_is_told_and_mended_by_joining_again(tmp_path: Path, harm: str) -> None:
    own = certificate(ANNA)
    begin(tmp_path, own)
    path = tmp_path / FILE
    data = path.read_bytes()
    path.unlink()
    if harm != "gone":
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes(data[:middle] if harm == "cut off" else flipped)
    with pytest.raises(AccessError, match="can't be read") as refusal:
        MembersFile(tmp_path, *RUN)
    assert "join the run again" in refusal.value.next_step
    assert begin(tmp_path, own).own == own


def test_a_file_of_another_run_is_not_taken_for_this_one_s(tmp_path: Path) -> None:
    begin(tmp_path, certificate(ANNA))
    with pytest.raises(AccessError, match="can't be read"):
        MembersFile(tmp_path, *private_run())


def test_the_largest_file_can_be_read() -> None:
    paper = certificate(ANNA, label="x" * 32).encoded
    kept = Members(boot=2**40, own=paper, papers=(paper,) * 5120, secrets=(bytes(32),) * 1025)
    assert len(kept.encoded) < Members.max_bytes
    assert Members.decode(kept.encoded) == kept


# Inviting ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, *RUN, ANNA.peer_id)


def test_an_owner_s_invite_is_listed_without_its_key(folder: RunFolder) -> None:
    made = invite_member(folder, OWNER, ("/ip4/192.0.2.1/tcp/1/p2p/" + ANNA.peer_id,), "ben", 2.0, BEN.peer_id)
    assert made.ticket is not None
    [listed] = MadeInvites.read(folder.path).invites
    assert (listed.label, listed.peer, listed.expires - listed.made) == ("ben", BEN.peer_id, 2 * DAY)
    assert listed.key == made.ticket.invitation.bearer.hex()
    assert made.ticket.seed.hex() not in (folder.path / "invites.json").read_text()
    assert made.ticket.certificate(BEN.peer_id).check().invitation.expires == listed.expires
    invite_member(folder, OWNER, made.addresses, "", 1.0, None)
    assert len(MadeInvites.read(folder.path).invites) == 2
    folder.close()


def test_invites_that_are_made_at_the_same_time_are_all_listed(folder: RunFolder) -> None:
    labels = [f"guest {number}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda label: invite_member(folder, OWNER, (), label, 1.0, None), labels))
    assert sorted(made.label for made in MadeInvites.read(folder.path).invites) == sorted(labels)
    folder.close()


def test_only_an_owner_invites(folder: RunFolder) -> None:
    with pytest.raises(AccessError, match="only an owner of the run can do that"):
        invite_member(folder, ANNA, (), "", 1.0, None)
    assert MadeInvites.read(folder.path).invites == ()
    folder.close()


def test_a_damaged_list_is_told_and_lets_nobody_in_or_out(folder: RunFolder) -> None:
    (folder.path / "invites.json").write_text(json.dumps({"invites": [{"label": 7}]}))
    with pytest.raises(StorageError, match="can't be read"):
        invite_member(folder, OWNER, (), "", 1.0, None)
    folder.close()


def test_a_private_run_s_folder_is_its_user_s_alone(folder: RunFolder) -> None:
    assert folder.path.stat().st_mode & 0o077 == 0
    folder.close()
