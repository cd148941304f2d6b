"""A run's states on this machine: computed, remembered, saved, replayed and found again after a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.replica import Replica, StartingPoint, StateGone
from p2ptrain.diloco.state import GlobalState, StateManifest
from p2ptrain.errors import LedgerError, MalformedError, StorageError
from p2ptrain.run import NO_DIGEST, Digest, digest_of
from p2ptrain.state import Blobs
from tests.unit.diloco.peers import (
    BASE,
    DEPTH,
    GENESIS,
    LAYOUT,
    SHAPES,
    SPEC,
    Peer,
    flip_a_bit,
    open_peer,
    same_bits,
    truncate,
)
from tests.unit.diloco.samples import PEERS, commit_on, encoded, offer


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with open_peer(tmp_path) as peer:
        peer.replica.begin(StartingPoint(BASE))
        yield peer


# States ----------------------------------------------------------------------------------------------------------


def test_replayed_states_equal_remembered_ones_bit_for_bit(peer: Peer) -> None:
    peer.grow(12)
    fresh = peer.restarted().replica
    for state in peer.states[::-1]:  # each from further back than is remembered
        assert same_bits(fresh.state_at(state.commit), state)
        assert same_bits(peer.replica.state_at(state.commit), state)


def test_a_state_is_replayed_from_the_nearest_snapshot(peer: Peer) -> None:
    peer.grow(6)
    peer.replica.snapshots.save(peer.states[6])
    peer.grow(4)
    peer.folder.ledger.drop_payloads(6)
    fresh = peer.restarted().replica
    assert same_bits(fresh.state_at(peer.states[10].commit), peer.states[10])
    with pytest.raises(StateGone):
        fresh.state_at(peer.states[5].commit)


def test_a_branch_is_applied_on_an_older_state(peer: Peer) -> None:
    peer.grow(10)
    fork = peer.states[3]
    rival = commit_on(fork.head, [peer.contribute(fork, 99)], attempt=1, run=GENESIS.digest)
    assert peer.replica.apply(rival).state.height == 4
    assert same_bits(peer.replica.state_at(peer.states[10].commit), peer.states[10])


def test_a_damaged_contribution_is_not_applied_and_whole_again_once_it_was_fetched_anew(peer: Peer) -> None:
    peer.grow(1)
    part = peer.commits[0].contributions[0]
    data = peer.folder.ledger.payload(Digest(part.payload)) or b""
    peer.folder.ledger.add_payload(Digest(part.payload), 1, bytes(len(data)))
    again = peer.restarted().replica
    with pytest.raises(StateGone, match="can't be computed"):
        again.apply(peer.commits[0])
    assert again.store_payload(part, data, BASE)
    assert same_bits(again.apply(peer.commits[0]).state, peer.states[1])


def test_a_state_that_nobody_here_can_compute_is_gone(peer: Peer) -> None:
    peer.grow(2)
    with pytest.raises(StateGone, match="can't be computed"):
        peer.replica.state_at(digest_of(b"unknown"))
    absent = commit_on(peer.states[2].head, [offer(PEERS[0], 3, b"nobody has these bytes")])
    with pytest.raises(StateGone) as gone:
        peer.replica.apply(absent)
    assert "height 3" in gone.value.why


def test_a_commit_on_another_state_is_refused_and_not_kept(peer: Peer) -> None:
    peer.grow(1)
    wrong = commit_on(peer.states[1].head, attempt=1).model_copy(update={"state": BASE.digest})
    with pytest.raises(LedgerError, match="another state"):
        peer.replica.apply(wrong)
    assert peer.folder.ledger.commit(wrong.digest) is None


# Payloads --------------------------------------------------------------------------------------------------------


def test_a_payload_is_served_whether_it_decodes_or_not(peer: Peer) -> None:
    good, bad = encoded(SPEC, np.ones(LAYOUT.sizes[1], dtype=np.float32)), b"\xff" * 7
    for data, usable in ((good, True), (bad, False)):
        assert peer.replica.store_payload(offer(PEERS[1], 1, data), data, BASE) is usable
        blob = peer.blobs.get(digest_of(data))
        assert blob is not None
        assert blob.read_all() == data


def test_a_payload_that_is_stored_again_for_a_later_height_is_kept_and_served_as_long_as_that_one(peer: Peer) -> None:
    data = encoded(SPEC, np.zeros(LAYOUT.sizes[1], dtype=np.float32))
    for height in (1, 13, 3):
        assert peer.replica.store_payload(offer(PEERS[2], height, data), data, BASE)
    kept = []
    for _ in range(9):
        peer.grow(2)
        peer.replica.snapshots.save(peer.states[-1])
        kept.append(peer.folder.ledger.payload(digest_of(data)) is not None)
        assert (digest_of(data) in peer.blobs) is kept[-1]
    assert kept == [height < 13 + DEPTH for height in range(2, 20, 2)]


# Snapshots -------------------------------------------------------------------------------------------------------


def test_snapshots_reach_back_as_far_as_a_rollback_may(peer: Peer) -> None:
    for _ in range(8):
        peer.grow(2)
        peer.replica.snapshots.save(peer.states[-1])
        newest = peer.heights[0]
        assert newest == peer.states[-1].height
        assert peer.heights[-1] <= max(0, newest - DEPTH), "one to replay from, for the deepest rollback"
        assert len(peer.heights) <= DEPTH // 2 + 1
    fresh = peer.restarted().replica
    for state in peer.states[-DEPTH - 1 :]:
        assert same_bits(fresh.state_at(state.commit), state)


def test_what_is_pruned_is_neither_served_nor_on_disk(peer: Peer) -> None:
    peer.grow(3)
    first = {part.payload for commit in peer.commits for part in commit.contributions}
    for _ in range(4):
        peer.grow(3)
        peer.replica.snapshots.save(peer.states[-1])
    assert BASE.digest not in peer.blobs
    assert not any(Digest(payload) in peer.blobs for payload in first)
    kept = [StateManifest.decode(row.manifest) for row in peer.folder.ledger.snapshots()]
    needed = {vector.hex() for manifest in kept for pair in manifest.vectors for vector in pair}
    assert {path.stem for path in (peer.folder.path / "vectors").iterdir()} == needed
    with pytest.raises(StateGone):
        peer.restarted().replica.state_at(peer.states[1].commit)


def test_a_snapshot_is_served_whole(peer: Peer) -> None:
    peer.grow(2)
    peer.replica.snapshots.save(peer.states[2])
    assert peer.replica.snapshots.offered[0] == (2, peer.states[2].digest)
    blob = peer.blobs.get(peer.states[2].digest)
    assert blob is not None
    assert blob.read_all() == peer.states[2].manifest.encoded
    for part in peer.states[2].fragments:
        for vector in (part.theta, part.momentum):
            found = peer.blobs.get(vector.digest)
            assert found is not None
            assert found.read_all() == bytes(vector.raw)


def test_snapshots_of_a_branch_that_was_left_are_dropped(peer: Peer) -> None:
    peer.grow(2)
    peer.replica.snapshots.save(peer.states[2])
    left = peer.states[2]
    peer.replica.snapshots.keep_branch({NO_DIGEST})
    assert peer.heights == [0]
    assert all(part.theta.digest not in peer.blobs for part in left.fragments)
    assert same_bits(peer.replica.state_at(left.commit), left), "the branch itself is kept"


def test_a_fetched_state_replaces_the_snapshots_of_a_longer_branch(tmp_path: Path, peer: Peer) -> None:
    """Where it was given up for a heavier, shorter one: those would be the newest by height."""
    peer.grow(1)
    fetched = StartingPoint(peer.states[1], (peer.commits[0],))
    with open_peer(tmp_path / "other") as other:
        other.replica.begin(StartingPoint(BASE))
        other.grow(3, seed=50)
        other.replica.snapshots.save(other.states[3])
        other.replica.begin(fetched)
        assert other.heights == [1], "what leads there from height 0 is not here"
        again = other.restarted().replica.restore()
    assert again is not None
    assert same_bits(again.state, fetched.state)


def test_a_restart_prefers_the_heads_branch_to_a_higher_snapshot(peer: Peer) -> None:
    peer.grow(3)
    peer.replica.snapshots.save(peer.states[3])
    peer.folder.ledger.set_head(NO_DIGEST)  # killed between taking the commits back and forgetting their snapshots
    again = peer.restarted().replica.restore()
    assert again is not None
    assert same_bits(again.state, BASE)


# Starting --------------------------------------------------------------------------------------------------------


def test_a_new_folder_has_nothing_to_restore(tmp_path: Path) -> None:
    with open_peer(tmp_path) as peer:
        assert peer.replica.restore() is None


def test_after_a_restart_a_peer_is_where_its_snapshot_and_commits_lead(tmp_path: Path) -> None:
    with open_peer(tmp_path) as before:
        before.replica.begin(StartingPoint(BASE))
        before.grow(3)
        before.replica.snapshots.save(before.states[3])
        before.grow(2)
    with open_peer(tmp_path) as after:
        position = after.replica.restore()
        assert position is not None
        assert same_bits(position.state, before.states[3])
        assert position.history == tuple(before.commits[:3])
        assert position.above == tuple(before.commits[3:])
        for commit, state in zip(position.above, before.states[4:], strict=True):
            assert same_bits(after.replica.apply(commit).state, state)
        assert after.heights == [3, 0]
        assert before.states[3].digest in after.blobs
        assert all(Digest(part.payload) in after.blobs for part in before.commits[4].contributions)


def test_a_joiner_starts_from_a_fetched_position(tmp_path: Path, peer: Peer) -> None:
    peer.grow(5)
    fetched = StartingPoint(peer.states[3], tuple(peer.commits[1:3]), tuple(peer.commits[3:]))
    with open_peer(tmp_path / "joiner") as joiner:
        joiner.replica.begin(fetched)
        assert joiner.heights == [3]
        assert joiner.folder.ledger.head == peer.states[3].commit
        again = joiner.restarted().replica.restore()
    assert again is not None
    assert same_bits(again.state, fetched.state)
    assert (again.history, again.above) == (fetched.history, fetched.above)


def test_known_commits_keep_the_payloads_that_they_list_whatever_those_were_stored_for(peer: Peer) -> None:
    """At a restart, and when a peer starts anew with payloads of its earlier life."""
    peer.grow(3)
    part = peer.commits[2].contributions[0]
    data = peer.folder.ledger.payload(Digest(part.payload)) or b""

    def file_for_height_1() -> None:
        peer.folder.ledger.drop_payloads(3)
        peer.folder.ledger.add_payload(Digest(part.payload), 1, data)

    file_for_height_1()
    peer.restarted().replica.restore()
    assert Digest(part.payload) not in peer.folder.ledger.drop_payloads(2)
    file_for_height_1()
    newcomer = peer.restarted()
    newcomer.replica.begin(StartingPoint(peer.states[2], tuple(peer.commits[:2]), (peer.commits[2],)))
    assert newcomer.folder.ledger.payload(Digest(part.payload)) == data


def test_a_commit_of_the_own_ledger_that_lists_a_wrong_size_is_left_out(peer: Peer) -> None:
    peer.grow(2)
    part = peer.contribute(peer.states[2], 9).model_copy(update={"size": 2**40})
    commit = commit_on(peer.states[2].head, [part], run=GENESIS.digest)
    peer.folder.ledger.add_commit(commit.digest, commit.height, commit.parent, commit.encoded)
    position = peer.restarted().replica.restore()
    assert position is not None
    assert position.above == tuple(peer.commits)


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, Path.unlink])
def test_a_damaged_snapshot_falls_back_to_an_older_one(peer: Peer, harm: Callable[[Path], None]) -> None:
    peer.grow(3)
    peer.replica.snapshots.save(peer.states[3])
    harm(peer.folder.path / "vectors" / f"{peer.states[3].fragments[0].momentum.digest.hex()}.safetensors")
    again = peer.restarted()
    position = again.replica.restore()
    assert position is not None
    assert same_bits(position.state, BASE)
    assert again.heights == [0]
    assert same_bits(again.replica.state_at(peer.states[3].commit), peer.states[3]), "by replay"


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, Path.unlink])
def test_a_damaged_older_snapshot_is_neither_in_the_way_nor_offered(peer: Peer, harm: Callable[[Path], None]) -> None:
    peer.grow(3)
    peer.replica.snapshots.save(peer.states[3])
    harm(peer.folder.path / "vectors" / f"{BASE.fragments[0].theta.digest.hex()}.safetensors")
    again = peer.restarted()
    position = again.replica.restore()
    assert position is not None
    assert same_bits(position.state, peer.states[3])
    assert again.heights == [3]
    assert BASE.digest not in again.blobs


def test_a_snapshot_that_was_damaged_is_whole_again_once_it_was_fetched_anew(peer: Peer) -> None:
    for path in (peer.folder.path / "vectors").iterdir():
        flip_a_bit(path)
    newcomer = peer.restarted()
    assert newcomer.replica.restore() is None
    newcomer.replica.begin(StartingPoint(BASE))
    again = newcomer.restarted().replica.restore()
    assert again is not None
    assert same_bits(again.state, BASE)


def test_a_folder_without_a_whole_snapshot_makes_a_newcomer(peer: Peer) -> None:
    for path in (peer.folder.path / "vectors").iterdir():
        truncate(path)
    assert peer.restarted().replica.restore() is None


def test_the_state_of_another_model_is_told_apart(peer: Peer) -> None:
    other = Layout.of({**SHAPES, "layers.0.w": (301,)}, 2)
    with pytest.raises(StorageError, match="another model"):
        Replica(peer.folder, other, Blobs()).snapshots.load(peer.folder.ledger.snapshots()[0])


def test_a_state_on_other_frozen_weights_is_another_model_s(peer: Peer) -> None:
    base, other = (Layout(LAYOUT.fragments, digest_of(name)) for name in (b"base", b"another base"))
    thetas = [np.ones(size, dtype=np.float32) for size in LAYOUT.sizes]
    state = GlobalState.initial(base.digest, thetas, base.frozen)
    peer.replica.snapshots.save(state)
    row = next(row for row in peer.folder.ledger.snapshots() if row.state == state.digest)
    assert same_bits(Replica(peer.folder, base, Blobs()).snapshots.load(row), state)
    with pytest.raises(StorageError, match="another model"):
        Replica(peer.folder, other, Blobs()).snapshots.load(row)


def test_vectors_of_the_wrong_length_are_malformed(peer: Peer) -> None:
    sizes = LAYOUT.sizes
    short = GlobalState.initial(LAYOUT.digest, [np.ones(size - 1, dtype=np.float32) for size in sizes])
    peer.replica.snapshots.save(short)
    row = next(row for row in peer.folder.ledger.snapshots() if row.state == short.digest)
    with pytest.raises(MalformedError, match="wrong lengths"):
        peer.restarted().replica.snapshots.load(row)
