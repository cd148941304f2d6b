"""The ledger keeps what it was given, whole or not at all, through restarts, several threads and full disks."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2ptrain.errors import StorageError
from p2ptrain.run import Digest, digest_of
from p2ptrain.state import Ledger, SnapshotRow
from p2ptrain.state.ledger import FORMAT
from tests.unit.state.samples import bytes_of, empty, overwrite

PARENT = digest_of(b"parent")


def name(text: str) -> Digest:
    return digest_of(text.encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    opened = Ledger(path)
    yield opened
    opened.close()


# Commits -----------------------------------------------------------------------------------------------------------


def test_a_new_ledger_is_empty(ledger: Ledger) -> None:
    assert ledger.commit(name("a")) is None
    assert ledger.commits(-1) == {}
    assert ledger.payload(name("a")) is None
    assert ledger.payload_digests() == []
    assert ledger.snapshots() == []
    assert ledger.fact("head") is None


def test_a_commit_is_found_by_its_digest(ledger: Ledger) -> None:
    ledger.add_commit(name("a"), 1, PARENT, b"record a")
    ledger.add_commit(name("b"), 2, name("a"), b"record b")
    assert ledger.commit(name("a")) == b"record a"
    assert ledger.commit(name("c")) is None


def test_both_sides_of_a_fork_are_kept_lowest_height_first(ledger: Ledger) -> None:
    for text, height in (("c", 3), ("b", 2), ("b'", 2), ("a", 1)):
        ledger.add_commit(name(text), height, PARENT, text.encode())
    assert ledger.commits(1) == {name("b"): b"b", name("b'"): b"b'", name("c"): b"c"}
    assert list(ledger.commits(1).values())[2:] == [b"c"]
    assert ledger.commits(3) == {}


def test_a_commit_that_is_known_stays_as_it_was(ledger: Ledger) -> None:
    ledger.add_commit(name("a"), 1, PARENT, b"first")
    ledger.add_commit(name("a"), 9, PARENT, b"again")
    assert ledger.commits(0) == {name("a"): b"first"}


# Payloads ----------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(data=st.binary(min_size=1, max_size=200), start=st.integers(0, 220), length=st.integers(0, 220))
def test_any_part_of_a_payload_can_be_read(ledger: Ledger, data: bytes, start: int, length: int) -> None:
    digest = digest_of(data)
    ledger.add_payload(digest, 1, bytearray(data))
    assert ledger.payload(digest) == data
    assert ledger.payload_part(digest, start, start + length) == data[start : start + length]


def test_payloads_are_dropped_up_to_a_height(ledger: Ledger) -> None:
    for height in range(1, 5):
        ledger.add_payload(name(f"{height}"), height, bytes_of(100, height))
    assert set(ledger.drop_payloads(2)) == {name("1"), name("2")}
    assert set(ledger.payload_digests()) == {name("3"), name("4")}
    assert ledger.payload(name("2")) is None
    assert ledger.payload_part(name("2"), 0, 10) == b""
    assert ledger.drop_payloads(2) == []


# Snapshots and facts -----------------------------------------------------------------------------------------------


def test_snapshots_come_newest_first_and_can_be_dropped(ledger: Ledger) -> None:
    rows = [SnapshotRow(name(f"{height}"), height, f"manifest {height}".encode()) for height in (8, 24, 16)]
    for row in (*rows, rows[0]):
        ledger.add_snapshot(row)
    assert ledger.snapshots() == [rows[1], rows[2], rows[0]]
    ledger.drop_snapshots([rows[1].state, name("unknown")])
    assert ledger.snapshots() == [rows[2], rows[0]]


def test_a_fact_is_replaced(ledger: Ledger) -> None:
    ledger.set_fact("head", b"first")
    ledger.set_fact("head", b"second")
    ledger.set_fact("peers", b"")
    assert (ledger.fact("head"), ledger.fact("peers")) == (b"second", b"")


# Restarts, crashes and others --------------------------------------------------------------------------------------


def fill(ledger: Ledger) -> None:
    ledger.add_commit(name("a"), 1, PARENT, b"record")
    ledger.add_payload(name("p"), 1, b"payload")
    ledger.add_snapshot(SnapshotRow(name("s"), 1, b"manifest"))
    ledger.set_fact("head", name("a"))


def content(ledger: Ledger) -> tuple[object, ...]:
    return ledger.commits(0), ledger.payload(name("p")), ledger.snapshots(), ledger.fact("head")


def test_everything_is_there_after_reopening(ledger: Ledger, path: Path) -> None:
    fill(ledger)
    before = content(ledger)
    ledger.close()
    again = Ledger(path)
    assert content(again) == before
    again.close()


def test_a_second_process_may_read_and_write_beside_the_first(ledger: Ledger, path: Path) -> None:
    fill(ledger)
    beside = Ledger(path)
    assert content(beside) == content(ledger)
    beside.set_fact("head", b"from beside")
    assert ledger.fact("head") == b"from beside"
    beside.close()


def test_threads_wait_for_one_another(ledger: Ledger) -> None:
    def write(author: int) -> None:
        for height in range(20):
            ledger.add_commit(name(f"{author} {height}"), height, PARENT, f"{author} {height}".encode())

    writers = [threading.Thread(target=write, args=(author,)) for author in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(ledger.commits(-1)) == 80


def test_a_crash_in_the_middle_of_a_write_loses_that_write_alone(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    fill(ledger)
    before = content(ledger)
    with ledger._transaction() as db:
        db.execute("DELETE FROM commits")
        shutil.copytree(path.parent, tmp_path / "after the crash")
    survivor = Ledger(tmp_path / "after the crash" / path.name)
    assert content(survivor) == before
    survivor.close()


def test_a_write_that_fails_halfway_changes_nothing(ledger: Ledger) -> None:
    fill(ledger)

    def interrupted() -> Iterator[Digest]:
        yield name("s")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.drop_snapshots(interrupted())
    assert [row.state for row in ledger.snapshots()] == [name("s")]


# Trouble -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_so_and_loses_nothing(ledger: Ledger) -> None:
    fill(ledger)
    before = content(ledger)
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError) as told:
        ledger.add_payload(name("large"), 2, bytes_of(10**6))
    assert str(ledger._path) in told.value.what
    assert told.value.why == "database or disk is full"
    assert "free some disk space" in told.value.next_step
    ledger._db.execute("PRAGMA max_page_count = 1000000")
    assert content(ledger) == before
    ledger.add_payload(name("large"), 2, bytes_of(10**6))


def test_a_closed_ledger_is_a_storage_error(ledger: Ledger) -> None:
    ledger.close()
    with pytest.raises(StorageError, match="can't be used"):
        ledger.fact("head")


def lose_the_schema(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4096])


@pytest.mark.parametrize("harm", [overwrite, lose_the_schema])
def test_a_damaged_file_is_a_storage_error_that_names_it(path: Path, harm: Callable[[Path], None]) -> None:
    ledger = Ledger(path)
    fill(ledger)
    ledger.close()
    harm(path)
    with pytest.raises(StorageError) as told:
        content(Ledger(path))
    assert str(path) in told.value.what
    assert told.value.why
    assert "the swarm has everything" in told.value.next_step


def test_an_empty_file_is_a_new_ledger(path: Path) -> None:
    path.touch()
    empty(path)
    ledger = Ledger(path)
    fill(ledger)
    ledger.close()


def test_what_is_no_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be used") as told:
        Ledger(tmp_path)
    assert str(tmp_path) in told.value.what


def test_a_newer_format_is_refused(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()
    with pytest.raises(StorageError) as told:
        Ledger(path)
    assert told.value.what == f"{path} has storage format {FORMAT + 1}"
    assert f"format {FORMAT}" in told.value.why
    assert "newer" in told.value.next_step
