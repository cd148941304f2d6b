"""Snapshots of master weights in a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from p2ptrain.spsa.snapshots import Snapshots
from p2ptrain.spsa.state import MasterState
from p2ptrain.state import NO_LIMITS, Blobs, Limits, RunFolder
from tests.unit.diloco.peers import GENESIS, SPEC
from tests.unit.diloco.samples import PEERS
from tests.unit.spsa.test_replica import BOOK, straight_to


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    opened = RunFolder.create(tmp_path, GENESIS, SPEC, PEERS[0])
    yield opened
    opened.close()


def states(count: int) -> list[MasterState]:
    log = max(BOOK.lengths, key=BOOK.lengths.__getitem__)
    return [straight_to(((log, number),)) for number in range(count)]


def damage(folder: RunFolder, state: MasterState) -> None:
    path = folder.vectors.path(state.parts[0][0].digest)
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


def test_the_newest_comes_back_and_the_base_stays(folder: RunFolder) -> None:
    snapshots = Snapshots(folder, Blobs(), NO_LIMITS)
    saved = states(6)
    for state in saved:
        snapshots.save(state)
    blobs = Blobs()
    again = Snapshots(folder, blobs, NO_LIMITS)
    found = again.restore(lambda position: True)
    assert found is not None
    assert found.digest == saved[5].digest
    assert again.offered == tuple((number, saved[number].digest) for number in (5, 4, 0))
    assert all(saved[number].digest in blobs for number in (5, 4, 0))
    assert len(list((folder.path / "vectors").iterdir())) == 3


def test_a_damaged_one_is_named_and_the_one_before_is_used(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    snapshots = Snapshots(folder, Blobs(), NO_LIMITS)
    for state in states(3):
        snapshots.save(state)
    damage(folder, states(3)[2])
    found = Snapshots(folder, Blobs(), NO_LIMITS).restore(lambda position: True)
    assert found is not None
    assert found.digest == states(3)[1].digest
    assert "the snapshot of 2 records can't be used" in caplog.text


def test_one_whose_records_are_not_all_here_is_served_and_not_started_from(folder: RunFolder) -> None:
    snapshots = Snapshots(folder, Blobs(), NO_LIMITS)
    for state in states(3):
        snapshots.save(state)
    again = Snapshots(folder, Blobs(), NO_LIMITS)
    found = again.restore(lambda position: sum(position.values()) < 2)
    assert found is not None
    assert found.digest == states(3)[1].digest
    assert [records for records, _ in again.offered] == [2, 1, 0]


def test_an_archive_keeps_them_all(folder: RunFolder) -> None:
    snapshots = Snapshots(folder, Blobs(), Limits(archive=True))
    for state in states(6):
        snapshots.save(state)
    assert [records for records, _ in snapshots.offered] == [5, 4, 3, 2, 1, 0]


def test_a_limit_leaves_the_newest(folder: RunFolder) -> None:
    snapshots = Snapshots(folder, Blobs(), Limits(disk=200_000))
    for state in states(4):
        snapshots.save(state)
    assert [records for records, _ in snapshots.offered] == [3, 2]
    tight = Snapshots(folder, Blobs(), Limits(disk=1))
    tight.save(states(5)[4])
    assert [records for records, _ in tight.offered] == [4]


def test_those_with_records_that_count_no_more_are_forgotten(folder: RunFolder) -> None:
    blobs = Blobs()
    snapshots = Snapshots(folder, blobs, Limits(archive=True))
    saved = states(4)
    for state in saved:
        snapshots.save(state)
    snapshots.keep_only(lambda position: all(count <= 2 for count in position.values()))
    assert [records for records, _ in snapshots.offered] == [2, 1, 0]
    assert [state.digest in blobs for state in saved] == [True, True, True, False]
    again = Snapshots(folder, Blobs(), NO_LIMITS)
    found = again.restore(lambda position: True)
    assert found is not None
    assert found.digest == saved[2].digest
    again.save(saved[2])
    assert saved[3].parts[0][0].digest not in folder.vectors


def test_a_position_that_a_disk_has_changed_does_not_keep_the_others_from_being_forgotten(folder: RunFolder) -> None:
    snapshots = Snapshots(folder, Blobs(), Limits(archive=True))
    for state in states(3):
        snapshots.save(state)
    with folder.ledger._db.write() as db:
        db.execute("UPDATE snapshots SET manifest = x'00' WHERE height = 1")
    snapshots.keep_only(lambda position: not position)
    assert snapshots.offered == ((0, states(1)[0].digest),)
