"""A folder that agrees with itself is found good; whatever is changed in it is found and named."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2ptrain.diloco.audit import audit, branch_of, shares
from p2ptrain.diloco.replica import StartingPoint
from p2ptrain.errors import StorageError
from p2ptrain.run import NO_DIGEST, PeerId, digest_of
from p2ptrain.state.check import Check
from tests.unit.diloco.peers import BASE, SPEC, Peer, flip_a_bit, open_peer
from tests.unit.diloco.samples import KEY_OF, PEERS, commit_on


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    """Six commits, with snapshots of heights 0, 3 and 6."""
    with open_peer(tmp_path) as peer:
        peer.replica.begin(StartingPoint(BASE))
        for _ in range(2):
            peer.grow(3)
            peer.replica.snapshots.save(peer.states[-1])
        yield peer


def wrong(peer: Peer, base: int | None = None) -> list[Check]:
    return [check for check in audit(peer.folder, base) if not check.good]


def change(peer: Peer, statement: str, *values: object) -> None:
    """Behind the ledger's back."""
    with sqlite3.connect(peer.folder.path / "ledger.sqlite") as db:
        assert db.execute(statement, values).rowcount > 0


def test_a_folder_that_agrees_with_itself(peer: Peer) -> None:
    checks = list(audit(peer.folder))
    assert all(check.good for check in checks)
    assert [check.subject for check in checks] == ["genesis", "commits", "payloads", *["snapshot"] * 3, "replay"]
    assert checks[-1].found == f"from height 0 to the head: height 6, state {peer.states[6].digest.hex()}"


def test_the_snapshot_to_replay_from_can_be_chosen(peer: Peer) -> None:
    for base in (3, 6):
        checks = list(audit(peer.folder, base))
        assert all(check.good for check in checks)
        assert checks[-1].found.startswith(f"from height {base} to the head: height 6")
    with pytest.raises(StorageError, match="no whole snapshot of height 4"):
        list(audit(peer.folder, 4))


def test_a_joiner_s_folder_begins_where_it_joined(tmp_path: Path, peer: Peer) -> None:
    with open_peer(tmp_path / "joiner") as joiner:
        joiner.replica.begin(StartingPoint(peer.states[6], tuple(peer.commits[3:])))
        checks = list(audit(joiner.folder))
    assert all(check.good for check in checks)
    assert checks[-1].found.startswith("from height 6 to the head: height 6")


def damaged_vector(peer: Peer) -> None:
    flip_a_bit(peer.folder.path / "vectors" / f"{peer.states[6].fragments[0].theta.digest.hex()}.safetensors")


def missing_vector(peer: Peer) -> None:
    (peer.folder.path / "vectors" / f"{peer.states[6].fragments[0].theta.digest.hex()}.safetensors").unlink()


def damaged_payload(peer: Peer) -> None:
    change(peer, "UPDATE payloads SET bytes = zeroblob(length(bytes)) WHERE height = 5")


def missing_payload(peer: Peer) -> None:
    change(peer, "DELETE FROM payloads WHERE height = 5")


def unsigned_commit(peer: Peer) -> None:
    record = bytearray(peer.commits[4].encoded)
    at = record.index(peer.commits[4].signature)
    record[at] ^= 1
    change(peer, "UPDATE commits SET record = ? WHERE height = 5", bytes(record))


def misfiled_commit(peer: Peer) -> None:
    change(peer, "UPDATE commits SET record = ? WHERE height = 5", peer.commits[3].encoded)


def oversized_contribution(peer: Peer) -> None:
    """A commit beside the branch, as a program could have taken it that did not check sizes."""
    part = peer.contribute(peer.states[5], 99).model_copy(update={"size": 2**40})
    commit = commit_on(peer.states[5].head, [part.signed(KEY_OF[PeerId(part.author)])], run=peer.folder.run)
    signed = commit.signed(KEY_OF[PEERS[0]])
    peer.folder.ledger.add_commit(signed.digest, signed.height, signed.parent, signed.encoded)


def another_manifest(peer: Peer) -> None:
    change(peer, "UPDATE snapshots SET manifest = ? WHERE height = 6", peer.states[5].manifest.encoded)


@pytest.mark.parametrize(
    ("damage", "subjects"),
    [
        (damaged_vector, {"snapshot"}),
        (missing_vector, {"snapshot"}),
        (damaged_payload, {"payloads", "replay"}),
        (missing_payload, {"replay"}),
        (unsigned_commit, {"commits", "replay"}),
        (misfiled_commit, {"commits", "replay"}),
        (oversized_contribution, {"commits"}),
        (another_manifest, {"snapshot"}),
    ],
)
def test_what_is_wrong_is_found_and_named(damage: Callable[[Peer], None], subjects: set[str], peer: Peer) -> None:
    damage(peer)
    assert {check.subject for check in wrong(peer)} == subjects


def test_a_snapshot_that_the_commits_do_not_lead_to_is_found(peer: Peer) -> None:
    """Whole, with the right commit, but of other numbers."""
    fake = type(BASE)(6, peer.states[6].commit, 600, BASE.layout, BASE.fragments)
    change(peer, "DELETE FROM snapshots WHERE height = 6")
    peer.replica.snapshots.save(fake)
    [check] = wrong(peer)
    assert check.found == "a snapshot differs from the commits' state: its height is 6"


def test_without_a_whole_snapshot_the_audit_says_what_it_can_not_check(peer: Peer) -> None:
    oversized_contribution(peer)
    for path in (peer.folder.path / "vectors").iterdir():
        flip_a_bit(path)
    commits = next(check for check in audit(peer.folder) if check.subject == "commits")
    assert commits.good
    assert commits.found.endswith("contributions' sizes can't be checked")


def test_a_base_that_the_genesis_does_not_name_is_found(tmp_path: Path) -> None:
    other = type(BASE)(0, NO_DIGEST, 1, BASE.layout, BASE.fragments)
    with open_peer(tmp_path) as peer:
        peer.replica.begin(StartingPoint(other))
        [check] = wrong(peer)
    assert check.found == "the snapshot of height 0 is not the one that the genesis names"


def test_shares_count_every_inner_step_once(peer: Peer) -> None:
    branch = branch_of(peer.folder, peer.states[6].commit)
    assert branch == peer.commits
    found = shares(branch, SPEC)
    assert {share.peer for share in found} <= set(PEERS[:3])
    assert sum(share.contributions for share in found) == 12
    assert sum(share.share for share in found) == pytest.approx(1.0)
    assert sum(share.tokens for share in found) == 12 * 100 // SPEC.method.fragments
    assert sum(share.steps for share in found) == 12 * 4 // SPEC.method.fragments
    assert [share.tokens for share in found] == sorted((share.tokens for share in found), reverse=True)
    assert branch_of(peer.folder, digest_of(b"unknown")) == []
