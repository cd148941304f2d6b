"""Which snapshots stay, within what a rollback and the volunteer allow; and that equal states are equal files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.diloco.replica import StartingPoint, StateGone
from p2ptrain.diloco.snapshots import to_keep
from p2ptrain.diloco.state import GlobalState
from p2ptrain.errors import StorageError
from p2ptrain.run import NO_DIGEST, Digest
from p2ptrain.state import Limits
from tests.unit.diloco.peers import BASE, DEPTH, GENESIS, LAYOUT, Peer, open_peer, same_bits
from tests.unit.diloco.samples import commit_on

ONE = 8 * sum(LAYOUT.sizes)
"""Bytes of the numbers of a snapshot that shares nothing with another one."""

HEIGHTS = st.sets(st.integers(0, 60), max_size=12).map(lambda heights: sorted(heights, reverse=True))
DEPTHS = st.integers(1, 40)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with open_peer(tmp_path) as peer:
        peer.replica.begin(StartingPoint(BASE))
        yield peer


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("p2ptrain"), "propagate", True)
    return caplog


# Which ones --------------------------------------------------------------------------------------------------------


def always(_: Sequence[int]) -> bool:
    return True


def at_most(count: int) -> Callable[[Sequence[int]], bool]:
    return lambda kept: len(kept) <= count


@given(heights=HEIGHTS, depth=DEPTHS)
def test_without_a_limit_those_stay_that_the_deepest_rollback_needs(heights: list[int], depth: int) -> None:
    kept = [heights[index] for index in to_keep(heights, depth, always)]
    deepest = heights[0] - depth if heights else 0
    below = [height for height in heights if height <= deepest]
    assert kept == [height for height in heights if height > deepest] + below[:1]


@given(heights=HEIGHTS.filter(len), depth=DEPTHS, answers=st.lists(st.booleans(), min_size=60, max_size=60))
def test_whatever_fits_the_newest_stays_and_the_oldest_goes_last(
    heights: list[int], depth: int, answers: list[bool]
) -> None:
    asked: list[list[int]] = []

    def fits(kept: Sequence[int]) -> bool:
        asked.append(list(kept))
        return answers[len(asked)]

    kept = to_keep(heights, depth, fits)
    assert kept == asked[-1] == sorted(kept)
    assert kept[0] == 0
    assert len(kept) == 1 or answers[len(asked)], "it goes on until it fits"
    deepest = asked[0][-1]
    for tried in asked:
        assert tried[0] == 0
        assert tried[-1] == deepest or tried == [0]
    assert [len(tried) for tried in asked] == list(range(len(asked[0]), len(asked[0]) - len(asked), -1))


@given(heights=HEIGHTS.filter(len), depth=DEPTHS, count=st.integers(0, 12))
def test_if_only_a_few_fit_they_are_the_newest_ones_and_the_oldest(heights: list[int], depth: int, count: int) -> None:
    all_of_them = to_keep(heights, depth, always)
    kept = to_keep(heights, depth, at_most(count))
    few = max(1, min(count, len(all_of_them)))
    assert kept == ([*all_of_them[: few - 1], all_of_them[-1]] if few > 1 else [0])


def test_of_none_none_stay() -> None:
    assert to_keep([], DEPTH, lambda _: pytest.fail("nothing to ask about")) == []


# A limit on the disk -----------------------------------------------------------------------------------------------


def on_disk(peer: Peer) -> int:
    vectors = sum(path.stat().st_size for path in (peer.folder.path / "vectors").iterdir())
    payloads = [peer.folder.ledger.payload(digest) or b"" for digest in peer.folder.ledger.payload_digests()]
    return vectors + sum(map(len, payloads))


def grow_with_snapshots(peer: Peer, times: int, every: int = 2) -> Iterator[None]:
    """One snapshot after another; the base is the first."""
    peer.replica.begin(StartingPoint(BASE))
    for _ in range(times):
        peer.grow(every)
        peer.replica.snapshots.save(peer.states[-1])
        yield


@pytest.mark.parametrize("limit", range(2 * ONE + 2000, 5 * ONE, ONE // 3))
def test_what_is_on_disk_stays_within_the_limit_with_room_for_the_next_snapshot(
    tmp_path: Path, limit: int, warnings: pytest.LogCaptureFixture
) -> None:
    with open_peer(tmp_path, Limits(disk=limit)) as peer:
        for _ in grow_with_snapshots(peer, 6):
            assert on_disk(peer) + ONE <= limit
            assert peer.heights[0] == peer.states[-1].height, "the newest is always there"
            assert same_bits(peer.restarted().replica.state_at(peer.states[-1].commit), peer.states[-1])
    assert warnings.text == ""


def test_what_fits_is_not_let_go_of(tmp_path: Path) -> None:
    """A limit that nothing reaches changes nothing."""
    with open_peer(tmp_path / "free") as free, open_peer(tmp_path / "ample", Limits(disk=20 * ONE)) as ample:
        for _ in zip(grow_with_snapshots(free, 5), grow_with_snapshots(ample, 5), strict=True):
            assert ample.heights == free.heights
            assert on_disk(ample) == on_disk(free)


def test_a_tight_limit_shortens_how_far_back_states_can_be_computed(tmp_path: Path) -> None:
    with open_peer(tmp_path, Limits(disk=2 * ONE + 2000)) as peer:
        for _ in grow_with_snapshots(peer, 6):
            pass
        lowest = peer.heights[-1]
        assert lowest > peer.states[-1].height - DEPTH
        fresh = peer.restarted().replica
        for state in peer.states[lowest:]:
            assert same_bits(fresh.state_at(state.commit), state)
        with pytest.raises(StateGone):
            fresh.state_at(peer.states[lowest - 1].commit)


def test_a_limit_too_small_for_one_snapshot_is_warned_of_once_and_the_newest_stays(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    with open_peer(tmp_path, Limits(disk=ONE)) as peer:
        for _ in grow_with_snapshots(peer, 4):
            assert peer.heights == [peer.states[-1].height]
            assert peer.folder.ledger.payload_digests() == []
        assert same_bits(peer.restarted().replica.state_at(peer.states[-1].commit), peer.states[-1])
    [record] = warnings.records
    assert "too small for this run" in record.getMessage()


# An archive --------------------------------------------------------------------------------------------------------


def test_an_archive_can_compute_every_state_also_after_restarts(tmp_path: Path) -> None:
    states: list[GlobalState] = []
    for times in range(3):
        with open_peer(tmp_path, Limits(archive=True)) as peer:
            if times:
                assert peer.replica.restore() is not None
                peer.states = states
            else:
                peer.replica.begin(StartingPoint(BASE))
            for _ in range(3):
                peer.grow(3, seed=100)
                peer.replica.snapshots.save(peer.states[-1])
            states = peer.states
            assert peer.heights[-1] == 0
            assert len(peer.heights) <= DEPTH // 3 + 3, "what lies between is not kept"
            assert len(peer.folder.ledger.payload_digests()) == 2 * (len(states) - 1)
            fresh = peer.restarted().replica
            for state in states:
                assert same_bits(fresh.state_at(state.commit), state)


def test_an_archive_that_joined_later_begins_with_its_first_snapshot(tmp_path: Path, peer: Peer) -> None:
    peer.grow(5)
    with open_peer(tmp_path / "joiner", Limits(archive=True)) as joiner:
        joiner.replica.begin(StartingPoint(peer.states[5], tuple(peer.commits)))
        joiner.states = [peer.states[5]]
        for _ in range(5):
            joiner.grow(2)
            joiner.replica.snapshots.save(joiner.states[-1])
        assert joiner.heights[-1] == 5
        fresh = joiner.restarted().replica
        for state in joiner.states:
            assert same_bits(fresh.state_at(state.commit), state)


# Files -------------------------------------------------------------------------------------------------------------


def vectors_of(peer: Peer) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (peer.folder.path / "vectors").iterdir()}


def test_equal_states_are_byte_identical_files_however_a_peer_got_there(tmp_path: Path, peer: Peer) -> None:
    """By its own outer steps, by replay after a restart, or by fetching."""
    peer.grow(7)
    last = peer.states[7]
    peer.replica.snapshots.save(last)
    with open_peer(tmp_path / "replaying") as replaying:
        replaying.replica.begin(StartingPoint(BASE))
        replaying.grow(7)
        replayed = replaying.restarted().replica.state_at(last.commit)
        replaying.replica.snapshots.save(replayed)
        assert vectors_of(replaying) == vectors_of(peer)
    with open_peer(tmp_path / "fetching") as fetching:
        blobs = {digest: peer.blobs.read(digest) or b"" for digest in digests_of(last)}
        fetching.replica.begin(StartingPoint(made_of(last, blobs), tuple(peer.commits)))
        names = {f"{digest.hex()}.safetensors" for digest in digests_of(last)}
        assert vectors_of(fetching) == {name: vectors_of(peer)[name] for name in names}


def digests_of(state: GlobalState) -> list[Digest]:
    return [vector.digest for part in state.fragments for vector in (part.theta, part.momentum)]


def made_of(state: GlobalState, blobs: dict[Digest, bytes]) -> GlobalState:
    """The same state, from other arrays."""
    fragments = tuple(
        type(part)(*(type(v)(np.frombuffer(blobs[v.digest], np.float32)) for v in (part.theta, part.momentum)))
        for part in state.fragments
    )
    return GlobalState(state.height, state.commit, state.weight, state.layout, fragments)


def test_what_two_snapshots_share_is_one_file(peer: Peer) -> None:
    before = len(vectors_of(peer))
    peer.grow(1)
    peer.replica.snapshots.save(peer.states[1])
    assert len(vectors_of(peer)) == before + 2, "θ and momentum of one fragment"


def test_a_full_disk_leaves_the_snapshots_before_untouched(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    peer.grow(3)
    before, written = peer.heights, list[str]()
    replace = Path.replace

    def is_full(path: Path, target: Path) -> Path:
        written.append(target.name)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", is_full)
        with pytest.raises(StorageError, match="can't write"):
            peer.replica.snapshots.save(peer.states[3])
    again = peer.restarted()
    position = again.replica.restore()
    assert position is not None
    assert same_bits(position.state, BASE)
    assert again.heights == before
    again.replica.snapshots.save(peer.states[3])
    assert again.heights == [3, *before]


def test_snapshots_of_another_branch_do_not_crowd_out_those_of_this_one(tmp_path: Path) -> None:
    """After a rollback, under a tight limit: one of the same height belongs to the branch that was left."""
    with open_peer(tmp_path, Limits(disk=2 * ONE + 2000)) as peer:
        peer.replica.begin(StartingPoint(BASE))
        peer.grow(6)
        peer.replica.snapshots.save(peer.states[6])
        fork = peer.states[5]
        rival = commit_on(fork.head, [peer.contribute(fork, 99)], attempt=1, run=GENESIS.digest)
        state = peer.replica.apply(rival).state
        peer.replica.snapshots.keep_branch({NO_DIGEST, rival.digest, *(c.digest for c in peer.commits[:5])})
        peer.replica.snapshots.save(state)
        assert peer.replica.snapshots.offered[0] == (6, state.digest)
        assert same_bits(peer.restarted().replica.state_at(rival.digest), state)
