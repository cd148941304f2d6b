"""The SQLite file under a ledger: what damage does to it, who may make it, and what others see of a write."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import StorageError
from p2ptrain.run import Digest, digest_of
from p2ptrain.state import DamagedError, HeadSeen, Ledger, Rollback, SnapshotRow
from p2ptrain.state.database import Database
from p2ptrain.state.logs import BatchRow, CutRow, Log, MarkRow
from p2ptrain.state.schema import FORMAT
from tests.unit.state.samples import PEERS, bytes_of

PAGE = 4096
HEADER = 100
"""Of its first bytes, some say which version of SQLite may read the file, and whether to write to it."""
LOG = Log(PEERS[0], b"session")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database(path, owned=True)
    yield opened
    opened.close()


# Damage ------------------------------------------------------------------------------------------------------------


def fill(ledger: Ledger) -> None:
    """Some rows in every table, of every size from within a page to several pages."""
    chance = random.Random(0)
    for height in range(1, 25):
        record = chance.randbytes(chance.randrange(20, 900))
        ledger.add_commit(digest_of(record), height, digest_of(b"parent"), record)
    for height, size in enumerate([10, 300, 3000, 6000, 20_000]):
        data = chance.randbytes(size)
        ledger.add_payload(digest_of(data), height, data)
    for height in range(3):
        manifest = chance.randbytes(400)
        ledger.add_snapshot(SnapshotRow(digest_of(manifest), height, manifest))
    ledger.set_head(digest_of(b"head"))
    ledger.see_heads(HeadSeen(peer, height, b"its words" * 20) for height, peer in enumerate(PEERS))
    ledger.add_rollback(Rollback(digest_of(b"old"), digest_of(b"new"), 1, 2, 3))
    ledger.logs.append(BatchRow(LOG, 3 * number, 3 * number + 3, b"record" * 20) for number in range(10))
    ledger.logs.add_cut(CutRow(LOG, 3, b"cut" * 20))
    ledger.logs.add_mark(MarkRow(digest_of(b"mark"), 4, b"mark" * 20))


def read_and_write_everything(ledger: Ledger) -> int:
    """How many records came back; each has its digest."""
    commits = ledger.commits(-1)
    payloads = {digest: ledger.payload(digest) for digest in ledger.payload_digests()}
    snapshots = {row.state: row.manifest for row in ledger.snapshots()}
    found = [*commits.items(), *payloads.items(), *snapshots.items()]
    found += [(digest, ledger.commit(digest)) for digest in ledger.commits_seen()]
    whole = [(digest, data) for digest, data in found if data is not None]
    assert all(digest_of(data) == digest for digest, data in whole)
    for digest in payloads:
        assert len(ledger.payload_part(digest, 5, 15)) <= 10
    assert ledger.payload_bytes(above=-1) >= 0
    for read in (ledger.heads, ledger.rollbacks, ledger.logs.lengths, ledger.logs.cuts, ledger.logs.marks):
        read()
    _ = ledger.head
    ledger.logs.batches(LOG)
    for table in ("commits", "payloads", "snapshots"):
        ledger.damaged(table)
    write_everything(ledger)
    return len(whole)


def write_everything(ledger: Ledger) -> None:
    new = Digest(digest_of(b"new"))
    ledger.add_commit(new, 99, digest_of(b"parent"), b"new")
    ledger.add_payload(new, 99, b"new")
    ledger.add_snapshot(SnapshotRow(new, 99, b"new"))
    assert (ledger.commit(new), ledger.payload(new), ledger.snapshots()[0].manifest) == (b"new",) * 3
    ledger.drop_snapshots([new])
    ledger.drop_payloads(2)
    ledger.set_head(new)
    ledger.see_heads([HeadSeen(PEERS[0], 9, b"again")])
    ledger.add_rollback(Rollback(new, new, 0, 0, 0))
    ledger.logs.append([BatchRow(LOG, 30, 33, b"more")])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a ledger that holds something of everything."""
    path = tmp_path_factory.mktemp("filled") / "ledger.sqlite"
    ledger = Ledger(path)
    fill(ledger)
    ledger.close()
    return path.read_bytes()


def survivors(folder: Path, content: bytes) -> int | None:
    """Open such a file and use it; how many records are whole, or None if the file is said to be damaged."""
    path = folder / "ledger.sqlite"
    for old in folder.glob("ledger.sqlite*"):
        old.unlink()
    path.write_bytes(content)
    with contextlib.suppress(DamagedError), contextlib.closing(Ledger(path)) as ledger:
        return read_and_write_everything(ledger)
    return None


ALL = 2 * 24 + 5 + 3
"""Commits are read in two ways."""


def test_of_a_whole_file_everything_survives(filled: bytes, tmp_path: Path) -> None:
    assert survivors(tmp_path, filled) == ALL


def test_a_changed_record_is_missing_alone(filled: bytes, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    fill(ledger)
    commits = list(ledger.commits(0).values())[::5]
    payloads = [ledger.payload(digest) or b"" for digest in ledger.payload_digests()]
    ledger.close()
    for records, lost in ((commits, 2), (payloads, 1)):
        for record in records:
            content = bytearray(filled)
            content[content.index(record[:10])] ^= 1
            assert survivors(tmp_path, bytes(content)) == ALL - lost


@settings(max_examples=100, deadline=None)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=5))
def test_whatever_bytes_change_what_the_ledger_returns_has_its_digest_or_the_file_is_damaged(
    filled: bytes, tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[float, int]]
) -> None:
    content = bytearray(filled)
    for place, flip in flips:
        content[HEADER + int(place * (len(content) - HEADER))] ^= flip
    survivors(tmp_path_factory.getbasetemp(), bytes(content))


def test_a_changed_header_is_at_worst_that_of_another_version(filled: bytes, tmp_path: Path) -> None:
    refused = []
    for at in range(HEADER):
        content = bytearray(filled)
        content[at] ^= 0x40
        try:
            survivors(tmp_path, bytes(content))
        except StorageError:
            refused.append(at)
    assert set(refused) <= {18, 19, *range(44, 48), *range(60, 64)}, "of SQLite, of its format and of this ledger's"


@pytest.mark.parametrize("blank", [bytes(PAGE), b"\xff" * PAGE, bytes_of(PAGE)], ids=["zeros", "ones", "noise"])
def test_a_page_that_is_lost_is_noticed_or_held_nothing_but_one_records_bytes(
    filled: bytes, tmp_path: Path, blank: bytes
) -> None:
    found = [
        survivors(tmp_path, filled[:start] + blank + filled[start + PAGE :]) for start in range(0, len(filled), PAGE)
    ]
    assert found[0] is None
    assert found.count(None) >= 15, "one for each table and index at least"
    assert all(count in (ALL, ALL - 1) for count in found if count is not None)


@pytest.mark.parametrize("name", ["payloads_by_height", "commits_by_height", "sqlite_autoindex_payloads_1"])
def test_an_index_that_disagrees_with_its_table_is_damage(filled: bytes, path: Path, name: str) -> None:
    """Queries would find less than there is, and a deletion would fail in the middle of training, at every start."""
    path.write_bytes(filled)
    ledger = Ledger(path)
    (root,) = ledger._db._db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    ledger.close()
    page, end = (root - 1) * PAGE, root * PAGE
    rows = page + int.from_bytes(filled[page + 5 : page + 7], "big")
    places = range(rows, end, max(1, (end - rows) // 27))
    assert sum(is_refused(path, filled, at) for at in places) >= 0.9 * len(places), "SQLite overlooks a few"


def is_refused(path: Path, filled: bytes, at: int) -> bool:
    """Whether a file is found to be damaged as it is opened if this byte of it has changed."""
    content = bytearray(filled)
    content[at] ^= 1
    path.write_bytes(content)
    try:
        Ledger(path).close()
    except DamagedError:
        return True
    return False


@pytest.mark.parametrize("length", [50, 511, 512, PAGE - 1, PAGE, 3 * PAGE + 1, 20 * PAGE])
def test_a_file_that_was_cut_off_is_damaged(filled: bytes, tmp_path: Path, length: int) -> None:
    assert survivors(tmp_path, filled[:length]) is None


def test_a_file_that_is_not_a_ledger_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(f"CREATE TABLE songs (title TEXT); PRAGMA user_version = {FORMAT};")
    db.close()
    with pytest.raises(DamagedError, match="tables and columns"):
        Ledger(path)


# Owner and readers -------------------------------------------------------------------------------------------------


def test_a_reader_makes_nothing(tmp_path: Path, path: Path) -> None:
    with pytest.raises(StorageError) as refusal:
        Ledger(path, owned=False)
    assert refusal.value.what == f"{path} is missing"
    assert "start the peer in its folder" in refusal.value.next_step
    assert list(tmp_path.iterdir()) == []


def test_a_reader_puts_nothing_into_an_empty_file(path: Path) -> None:
    path.touch()
    with pytest.raises(StorageError) as refusal:
        Ledger(path, owned=False)
    assert refusal.value.what == f"{path} is empty"
    assert "start the peer in its folder" in refusal.value.next_step
    Ledger(path).close()
    Ledger(path, owned=False).close()


def test_a_reader_takes_a_file_as_it_is(path: Path, filled: bytes) -> None:
    path.write_bytes(filled)
    reader = Ledger(path, owned=False)
    assert len(reader.commits(0)) == 24
    reader.close()
    assert path.read_bytes() == filled


def test_every_write_is_synced_before_it_counts(database: Database) -> None:
    assert database._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert database._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def put(db: sqlite3.Connection, value: bytes) -> None:
    db.execute("INSERT OR REPLACE INTO head VALUES (1, ?)", (value,))


def head(database: Database) -> bytes | None:
    return database.value("SELECT digest FROM head")


def test_others_see_a_write_once_it_is_done_and_wait_for_none(database: Database, path: Path) -> None:
    reader = Database(path, owned=False)
    with database.write() as db:
        put(db, b"new")
        assert head(reader) is head(database) is None
    assert head(reader) == head(database) == b"new"
    reader.close()


def test_a_write_waits_for_the_one_before_it(database: Database) -> None:
    began, seen = threading.Event(), list[bytes | None]()

    def write() -> None:
        began.set()
        with database.write() as db:
            seen.append(head(database))
            put(db, b"second")

    other = threading.Thread(target=write)
    with database.write() as db:
        other.start()
        began.wait()
        put(db, b"first")
    other.join()
    assert seen == [b"first"]
    assert head(database) == b"second"


def test_a_write_that_fails_leaves_no_trace_and_the_next_one_works(database: Database) -> None:
    def write_halfway(statement: str) -> None:
        with database.write() as db:
            put(db, b"half")
            db.execute(statement)

    with pytest.raises(StorageError, match="no such table") as told:
        write_halfway("INSERT INTO nowhere VALUES (1)")
    assert str(database.path) in told.value.what
    with pytest.raises(TypeError):
        write_halfway(None)  # type: ignore[arg-type]
    assert head(database) is None
    with database.write() as db:
        put(db, b"whole")
    assert head(database) == b"whole"


def test_a_file_that_another_process_writes_to_is_said_to_be_locked(database: Database, path: Path) -> None:
    beside = Database(path, owned=True)
    beside._db.execute("PRAGMA busy_timeout = 0")
    with database.write(), pytest.raises(StorageError, match="locked") as told, beside.write():
        pass
    assert not isinstance(told.value, DamagedError)
    assert "end the other process" in told.value.next_step
    beside.close()


def test_what_is_not_bytes_is_not_returned_as_such(database: Database) -> None:
    for literal in ("NULL", "7", "1e300", "'text'", "1099511627776"):
        assert database.value(f"SELECT {literal}") is None
    assert database.value("SELECT CAST(X'ff00' AS TEXT)") is None
    assert database.value("SELECT X'ff00'") == b"\xff\x00"
