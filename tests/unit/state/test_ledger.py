"""The ledger keeps what it was given, whole or not at all, through restarts, several threads and full disks."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2ptrain.errors import StorageError
from p2ptrain.run import NO_DIGEST, Digest, digest_of
from p2ptrain.state import DamagedError, HeadSeen, Ledger, Rollback, SnapshotRow
from tests.unit.state.samples import PEERS, bytes_of, empty, overwrite

PARENT = digest_of(b"parent")
NOW = 1_700_000_000
Table = Literal["commits", "payloads", "snapshots"]


def name(text: str) -> Digest:
    """What a record of these words is filed under."""
    return digest_of(text.encode())


def add_commit(ledger: Ledger, text: str, height: int = 1) -> None:
    ledger.add_commit(name(text), height, PARENT, text.encode())


def add_payload(ledger: Ledger, text: str, height: int = 1) -> None:
    ledger.add_payload(name(text), height, text.encode())


def snapshot(height: int) -> SnapshotRow:
    manifest = f"manifest {height}".encode()
    return SnapshotRow(digest_of(manifest), height, manifest)


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
    assert ledger.head == NO_DIGEST
    assert (ledger.commits_seen(), ledger.rollbacks(), ledger.heads()) == ({}, [], [])
    assert ledger.payload_bytes(above=-1) == 0


def test_a_commit_is_found_by_its_digest(ledger: Ledger) -> None:
    add_commit(ledger, "a", 1)
    add_commit(ledger, "b", 2)
    assert ledger.commit(name("a")) == b"a"
    assert ledger.commit(name("c")) is None


def test_both_sides_of_a_fork_are_kept_lowest_height_first(ledger: Ledger) -> None:
    for text, height in (("c", 3), ("b", 2), ("b'", 2), ("a", 1)):
        add_commit(ledger, text, height)
    assert ledger.commits(1) == {name("b"): b"b", name("b'"): b"b'", name("c"): b"c"}
    assert list(ledger.commits(1).values())[2:] == [b"c"]
    assert ledger.commits(3) == {}


def test_a_commit_that_comes_again_was_first_seen_when_it_first_came(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in range(2):
        monkeypatch.setattr(time, "time", lambda day=day: NOW + 86_400 * day + 0.75)
        add_commit(ledger, "a")
        add_commit(ledger, f"b{day}")
    assert ledger.commits_seen() == {name("a"): NOW, name("b0"): NOW, name("b1"): NOW + 86_400}
    assert len(ledger.commits(0)) == 3


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
        add_payload(ledger, f"{height}", height)
    assert set(ledger.drop_payloads(2)) == {name("1"), name("2")}
    assert set(ledger.payload_digests()) == {name("3"), name("4")}
    assert ledger.payload(name("2")) is None
    assert ledger.payload_part(name("2"), 0, 10) == b""
    assert ledger.drop_payloads(2) == []


def test_a_payload_that_is_added_for_several_heights_stays_for_the_highest(ledger: Ledger) -> None:
    for heights in ((2, 5), (5, 2)):
        for height in heights:
            add_payload(ledger, "the same", height)
        assert ledger.payload_digests() == [name("the same")]
        assert ledger.drop_payloads(4) == []
        assert ledger.payload(name("the same")) == b"the same"
        assert ledger.payload_bytes(above=4) == len(b"the same")
        assert ledger.drop_payloads(5) == [name("the same")]


def test_payloads_are_kept_for_a_later_height_and_for_no_earlier_one(ledger: Ledger) -> None:
    for height in (1, 2, 3):
        add_payload(ledger, f"{height}", height)
    ledger.keep_payloads([(name("1"), 4), (name("1"), 2), (name("3"), 1), (name("absent"), 9)])
    assert ledger.drop_payloads(2) == [name("2")]
    assert set(ledger.payload_digests()) == {name("1"), name("3")}
    assert ledger.drop_payloads(3) == [name("3")]
    assert ledger.payload(name("1")) == b"1"


@given(sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300)), max_size=6), above=st.integers(-1, 6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_payloads_take_is_counted_above_a_height(ledger: Ledger, sizes: list[tuple[int, int]], above: int) -> None:
    ledger.drop_payloads(10**6)
    for seed, (height, size) in enumerate(sizes):
        ledger.add_payload(digest_of(bytes_of(size, seed)), height, bytes_of(size, seed))
    kept = {bytes_of(size, seed): height for seed, (height, size) in enumerate(sizes)}
    assert ledger.payload_bytes(above) == sum(len(data) for data, height in kept.items() if height > above)


# Snapshots and the head -----------------------------------------------------------------------------------------------


def test_snapshots_come_newest_first_and_can_be_dropped(ledger: Ledger) -> None:
    rows = [snapshot(height) for height in (8, 24, 16)]
    for row in (*rows, rows[0]):
        ledger.add_snapshot(row)
    assert ledger.snapshots() == [rows[1], rows[2], rows[0]]
    ledger.drop_snapshots([rows[1].state, name("unknown")])
    assert ledger.snapshots() == [rows[2], rows[0]]


def test_the_head_is_replaced(ledger: Ledger) -> None:
    ledger.set_head(name("first"))
    ledger.set_head(name("second"))
    assert ledger.head == name("second")


# What happened -----------------------------------------------------------------------------------------------------


def test_rollbacks_are_kept_in_their_order_with_the_time(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW + 0.5)
    happened = [Rollback(name("b"), name("c"), 3, 3000, 1000), Rollback(name("a"), name("b"), 1, 500, 0)]
    for rollback in happened:
        ledger.add_rollback(rollback)
    assert ledger.rollbacks() == [dataclasses.replace(rollback, seen=NOW) for rollback in happened]


def test_the_last_word_of_every_peer_is_kept_the_latest_first(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for minute, seen in enumerate([[(1, 5), (2, 5)], [(2, 7)], [(3, 6), (1, 4)]]):
        monkeypatch.setattr(time, "time", lambda minute=minute: NOW + 60 * minute)
        ledger.see_heads([HeadSeen(PEERS[peer], height, f"{peer} at {height}".encode()) for peer, height in seen])
    told = [(head.peer, head.height, head.head, head.seen - NOW) for head in ledger.heads()]
    late = [(PEERS[1], 4, b"1 at 4", 120), (PEERS[3], 6, b"3 at 6", 120)]
    assert told == [*sorted(late), (PEERS[2], 7, b"2 at 7", 60)]


# Damage ------------------------------------------------------------------------------------------------------------

TABLES: dict[Table, str] = {"commits": "record", "payloads": "bytes", "snapshots": "manifest"}


def change(ledger: Ledger, table: Table, value: object) -> None:
    """What a disk may do to a table's only row."""
    with ledger._db.write() as db:
        assert db.execute(f"UPDATE {table} SET {TABLES[table]} = ?", (value,)).rowcount == 1


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("value", [b"another thing", b"", "text", 7, 2.5], ids=repr)
def test_what_has_another_digest_counts_as_missing_until_it_is_stored_again(
    ledger: Ledger, table: Table, value: object
) -> None:
    fill(ledger)
    before = content(ledger)
    assert not any(ledger.damaged(each) for each in TABLES)
    change(ledger, table, value)
    assert sum(now != then for now, then in zip(content(ledger), before, strict=True)) == 1
    assert content(ledger)[list(TABLES).index(table)] in ({}, None, [])
    assert {each: len(ledger.damaged(each)) for each in TABLES} == {each: each == table for each in TABLES}
    if table == "commits":
        assert ledger.commit(name("commit")) is None
    fill(ledger)
    assert content(ledger) == before
    assert not any(ledger.damaged(each) for each in TABLES)


# Restarts, crashes and others --------------------------------------------------------------------------------------


def fill(ledger: Ledger) -> None:
    add_commit(ledger, "commit")
    add_payload(ledger, "payload")
    ledger.add_snapshot(snapshot(1))
    ledger.set_head(name("commit"))


def content(ledger: Ledger) -> tuple[object, ...]:
    return ledger.commits(0), ledger.payload(name("payload")), ledger.snapshots(), ledger.head


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
    beside.set_head(name("beside"))
    assert ledger.head == name("beside")
    beside.close()


def test_threads_wait_for_one_another(ledger: Ledger) -> None:
    def write(author: int) -> None:
        for height in range(20):
            add_commit(ledger, f"{author} {height}", height)

    writers = [threading.Thread(target=write, args=(author,)) for author in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(ledger.commits(-1)) == 80


def test_a_crash_in_the_middle_of_a_write_loses_that_write_alone(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    fill(ledger)
    before = content(ledger)
    with ledger._db.write() as db:
        db.execute("DELETE FROM commits")
        shutil.copytree(path.parent, tmp_path / "after the crash")
    survivor = Ledger(tmp_path / "after the crash" / path.name)
    assert content(survivor) == before
    survivor.close()


def test_a_write_that_fails_halfway_changes_nothing(ledger: Ledger) -> None:
    fill(ledger)

    def interrupted() -> Iterator[Digest]:
        yield snapshot(1).state
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.drop_snapshots(interrupted())
    assert ledger.snapshots() == [snapshot(1)]


# Trouble -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_so_and_loses_nothing(ledger: Ledger, path: Path) -> None:
    fill(ledger)
    before = content(ledger)
    large, db = bytes_of(10**6), ledger._db._db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError) as told:
        ledger.add_payload(digest_of(large), 2, large)
    assert not isinstance(told.value, DamagedError)
    assert str(path) in told.value.what
    assert told.value.why == "database or disk is full"
    assert "free some disk space" in told.value.next_step
    db.execute("PRAGMA max_page_count = 1000000")
    assert content(ledger) == before
    ledger.add_payload(digest_of(large), 2, large)
    assert ledger.payload(digest_of(large)) == large


def test_a_closed_ledger_is_a_storage_error(ledger: Ledger) -> None:
    ledger.close()
    with pytest.raises(StorageError, match="can't be used"):
        _ = ledger.head


def lose_the_schema(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4096])


@pytest.mark.parametrize("harm", [overwrite, lose_the_schema])
def test_a_damaged_file_is_told_apart_and_named(path: Path, harm: Callable[[Path], None]) -> None:
    ledger = Ledger(path)
    fill(ledger)
    ledger.close()
    harm(path)
    with pytest.raises(DamagedError) as told:
        Ledger(path)
    assert str(path) in told.value.what
    assert told.value.why
    assert "puts the file aside" in told.value.next_step


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
