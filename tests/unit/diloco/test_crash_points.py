"""A peer that dies anywhere between two operations on its disk starts again from what it had saved."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from p2ptrain.diloco.audit import audit
from p2ptrain.diloco.chain import Chain
from p2ptrain.diloco.replica import StartingPoint
from p2ptrain.run import NO_DIGEST, Digest
from p2ptrain.state.vectors import Vectors
from tests.unit.diloco.crashes import Machine
from tests.unit.diloco.lives import FRAGMENTS, Deed, Fetch, Grow, Rival, Story, a_story, booleans, deeds
from tests.unit.diloco.peers import BASE, DEPTH, Peer, open_peer, same_bits

PLANS = st.lists(deeds, min_size=1, max_size=8)
STEPS = st.integers(1, 200)
TURNS = st.sets(st.integers(1, 600), max_size=12)
AFTERWARDS: Sequence[Deed] = (Grow(), Grow(save=True), Grow())
WHOLE_LIFE: Sequence[Deed] = (*[Grow(1, save=True)] * (DEPTH + 1), Rival(2), Fetch(1, 2), Grow(1, save=True))


def assert_it_goes_on(story: Story) -> None:
    for plan in (AFTERWARDS, ()):
        assert not story.live(plan).died
        story.check()


@pytest.mark.parametrize("power_fails", [False, True])
def test_every_point_of_one_life(power_fails: bool) -> None:
    """Where the power fails, it takes all that it can."""
    dies_at, died = 0, True
    while died:
        dies_at += 1
        with a_story() as story:
            died = story.live(WHOLE_LIFE, dies_at).died
            if power_fails:
                story.disk.lose_power(lambda most: most)
            story.check()
    assert dies_at > 100


@settings(max_examples=30)
@given(lives=st.lists(st.tuples(PLANS, STEPS, TURNS), min_size=1, max_size=3))
def test_whatever_its_threads_are_at_a_peer_that_is_killed_starts_again(
    lives: list[tuple[list[Deed], int, set[int]]],
) -> None:
    with a_story() as story:
        for plan, dies_at, turns in lives:
            event(f"died: {story.live(plan, dies_at, turns).died}")
            story.check()
        assert_it_goes_on(story)


@settings(max_examples=30)
@given(lives=st.lists(st.tuples(PLANS, STEPS, TURNS, booleans), min_size=1, max_size=3), data=st.data())
def test_a_power_loss_takes_nothing_that_was_promised(
    lives: list[tuple[list[Deed], int, set[int], bool]], data: st.DataObject
) -> None:
    with a_story() as story:
        for plan, dies_at, turns, killed in lives:
            event(f"died: {story.live(plan, dies_at, turns).died}")
            if not killed:
                story.disk.lose_power(lambda most: data.draw(st.integers(0, most)))
            story.check()
        assert_it_goes_on(story)


# What the tests above have found ---------------------------------------------------------------------------------


def test_a_snapshot_that_a_crash_left_of_a_lost_branch_takes_no_place_of_those_that_a_rollback_needs(
    tmp_path: Path,
) -> None:
    """Snapshots of lost branches, one from before the crash and one from after, must not push out that of the start."""
    with open_peer(tmp_path) as peer:
        peer.replica.begin(StartingPoint(BASE))
        peer.grow(2)
        peer.replica.snapshots.save(peer.states[2])
        peer.folder.ledger.set_head(NO_DIGEST)  # killed between taking the commits back and forgetting their snapshots
        again = peer.restarted()
        assert again.replica.restore() is not None
        again.states, again.commits = [BASE], []
        again.grow(2 + DEPTH, seed=50)
        again.replica.snapshots.save(again.states[-1])
        again.folder.ledger.set_head(Digest(again.commits[-2].digest))  # killed in the same way
        position = again.restarted().replica.restore()
    assert position is not None
    assert same_bits(position.state, BASE)


def test_what_is_still_due_for_the_branch_before_leaves_a_fetched_snapshot_alone(tmp_path: Path) -> None:
    """The writer is slow: it comes to forget a branch's snapshots when the peer has begun elsewhere."""
    with open_peer(tmp_path / "others") as others, open_peer(tmp_path / "mine") as peer:
        others.replica.begin(StartingPoint(BASE))
        others.grow(3)
        peer.replica.begin(StartingPoint(BASE))
        peer.grow(2, seed=50)
        peer.replica.begin(StartingPoint(others.states[3], tuple(others.commits)))
        peer.replica.snapshots.keep_branch({NO_DIGEST, *(commit.digest for commit in peer.commits)})
        assert peer.heights == [3]
        again = peer.restarted().replica.restore()
    assert again is not None
    assert same_bits(again.state, others.states[3])


def test_snapshots_that_do_not_lead_to_a_fetched_one_are_forgotten(tmp_path: Path) -> None:
    """The bytes between are missing, so nobody can replay what lies between."""
    with open_peer(tmp_path / "others") as others, open_peer(tmp_path / "mine") as peer:
        others.replica.begin(StartingPoint(BASE))
        others.grow(4)
        peer.replica.begin(StartingPoint(BASE))
        for commit in others.commits[2:]:
            for part in commit.contributions:
                data = others.folder.ledger.payload(Digest(part.payload))
                assert data is not None
                peer.folder.ledger.add_payload(Digest(part.payload), part.height, data)
        peer.replica.begin(StartingPoint(others.states[2], tuple(others.commits[:2])))
        peer.replica.begin(StartingPoint(others.states[4], tuple(others.commits)))
        assert peer.heights == [4, 2]
        assert all(check.good for check in audit(peer.folder))


def test_what_a_start_finds_written_outlasts_a_power_loss_even_if_the_crash_came_before_it_was_safe() -> None:
    dies_at, died = 0, True
    while died:
        dies_at += 1
        with a_story() as story:
            died = story.live([], dies_at).died
            story.live([])
            story.disk.lose_power(lambda most: most)
            story.check()


def test_what_a_crash_left_half_written_is_deleted(tmp_path: Path) -> None:
    with open_peer(tmp_path) as peer:
        path = peer.folder.path
    names = [f".checkpoint.pt.{pid}.part" for pid in (7, 8)]
    for folder in (path, path / "vectors"):
        for name in names:
            (folder / name).write_bytes(b"half")
    with open_peer(tmp_path):
        assert not list(path.rglob(".*.part"))


@pytest.mark.parametrize("turn", range(1, 8))
def test_a_vector_is_written_while_another_thread_tidies_up(turn: int) -> None:
    values = BASE.fragments[0].theta
    with a_story() as story, Machine(story.disk, turns={turn}) as machine:
        vectors = Vectors(story.disk.folder)
        machine.threads.run(
            lambda: vectors.save(values.digest, values.values),
            lambda: vectors.keep_only({values.digest}),
        )
        assert values.digest in vectors


# Damage in the ledger ----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Peer]:
    """Seven commits, with snapshots of heights 0, 3 and 6."""
    with open_peer(tmp_path) as peer:
        peer.replica.begin(StartingPoint(BASE))
        for heights in (3, 3, 1):
            peer.grow(heights)
            if heights == 3:
                peer.replica.snapshots.save(peer.states[-1])
        yield peer


def damage(peer: Peer, table: str, column: str, height: int) -> None:
    with contextlib.closing(sqlite3.connect(peer.folder.path / "ledger.sqlite")) as db, db:
        changed = db.execute(f"UPDATE {table} SET {column} = zeroblob(length({column})) WHERE height = ?", (height,))
        assert changed.rowcount > 0


@pytest.mark.parametrize(
    ("table", "column", "height", "start"),
    [
        ("commits", "record", 7, 6),
        ("commits", "record", 6, 3),
        ("commits", "record", 5, 3),
        ("commits", "record", 4, 6),  # two below a snapshot are enough with two fragments
        ("payloads", "bytes", 7, 6),
        ("payloads", "bytes", 2, 6),
        ("snapshots", "manifest", 6, 3),
        ("snapshots", "manifest", 3, 6),
    ],
)
def test_what_is_damaged_in_the_ledger_is_named_and_dropped_and_a_snapshot_is_found_to_go_on_from(
    saved: Peer, table: str, column: str, height: int, start: int, caplog: pytest.LogCaptureFixture
) -> None:
    damage(saved, table, column, height)
    position = saved.restarted().replica.restore()
    assert position is not None
    assert same_bits(position.state, saved.states[start])
    assert f"{saved.folder.path / 'ledger.sqlite'}: " in caplog.text
    assert f"of its {table} were damaged" in caplog.text
    chain = Chain(position.state.head, FRAGMENTS, position.history)
    assert chain.base_for(start + 1, position.state.commit) == Digest(saved.commits[start - 2].digest)
    assert not any(saved.folder.ledger.damaged(name) for name in ("commits", "payloads", "snapshots"))


def test_a_head_that_is_damaged_does_not_hide_the_snapshots(saved: Peer) -> None:
    saved.folder.ledger.set_head(Digest(bytes(31) + b"?"))
    again = saved.restarted()
    position = again.replica.restore()
    assert position is not None
    reached = position.state
    for commit in position.above:
        reached = again.replica.apply(commit).state
    assert same_bits(reached, saved.states[7])
