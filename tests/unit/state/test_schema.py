"""A folder of the first format goes on as if it had always had today's, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2ptrain.errors import StorageError
from p2ptrain.run import digest_of
from p2ptrain.state import DamagedError, RunFolder, SnapshotRow, schema
from p2ptrain.state import database as module
from p2ptrain.state.contact import Contact
from p2ptrain.state.logs import Batch, Log
from p2ptrain.state.schema import FORMAT, OLDEST_FORMAT
from tests.unit.state.samples import PEERS, bytes_of

FIRST_FORMAT = """
CREATE TABLE commits (
    digest BLOB PRIMARY KEY, height INTEGER NOT NULL, parent BLOB NOT NULL, record BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX commits_by_height ON commits (height);
CREATE TABLE payloads (digest BLOB PRIMARY KEY, height INTEGER NOT NULL, bytes BLOB NOT NULL);
CREATE INDEX payloads_by_height ON payloads (height);
CREATE TABLE snapshots (
    state BLOB PRIMARY KEY, height INTEGER NOT NULL, manifest BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
"""As version 0.1 wrote it: never to be changed."""

COMMITS = {digest_of(record): record for record in (b"commit 1", b"commit 2", b"commit 2'")}
PAYLOADS = {digest_of(data): data for data in (bytes_of(30), bytes_of(9000), bytes_of(0))}
SNAPSHOTS = [SnapshotRow(digest_of(b"manifest 8"), 8, b"manifest 8"), SnapshotRow(digest_of(b"m 0"), 0, b"m 0")]
HEAD = digest_of(b"commit 2")
CONTACT = Contact(identity="/home/me/identities/1.key", port=4001, peers=("/ip4/127.0.0.1/tcp/1", "/dns4/a/tcp/2"))


def first_format(path: Path) -> sqlite3.Connection:
    """A new file of that format, still open."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(f"BEGIN; {FIRST_FORMAT} PRAGMA user_version = 1; COMMIT;")
    for height, (digest, record) in enumerate(COMMITS.items(), 1):
        db.execute("INSERT INTO commits VALUES (?, ?, ?, ?)", (digest, min(height, 2), digest_of(b"parent"), record))
    db.executemany("INSERT INTO payloads VALUES (?, 2, ?)", PAYLOADS.items())
    db.executemany("INSERT INTO snapshots VALUES (?, ?, ?)", map(dataclasses.astuple, SNAPSHOTS))
    facts = {
        "head": HEAD,
        "identity": CONTACT.identity.encode(),
        "port": str(CONTACT.port).encode(),
        "peers": json.dumps(CONTACT.peers).encode(),
    }
    db.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
    return db


@pytest.fixture
def old(run_folder: Path) -> Path:
    """A run folder of the first format, as a peer left it that was stopped."""
    for path in run_folder.glob("ledger.sqlite*"):
        path.unlink()
    first_format(run_folder / "ledger.sqlite").close()
    return run_folder


def version_of(folder: Path) -> int:
    db = sqlite3.connect(folder / "ledger.sqlite")
    (found,) = db.execute("PRAGMA user_version").fetchone()
    db.close()
    return int(found)


def content_of(path: Path) -> list[str]:
    """All of a file, as SQL."""
    db = sqlite3.connect(path)
    lines = list(db.iterdump())
    db.close()
    return lines


def check(folder: RunFolder, contact: Contact = CONTACT) -> None:
    """Whether everything is there, and where it belongs."""
    ledger = folder.ledger
    assert ledger.commits(0) == COMMITS
    assert ledger.commits_seen() == dict.fromkeys(COMMITS, 0)
    assert {digest: ledger.payload(digest) for digest in ledger.payload_digests()} == PAYLOADS
    assert ledger.snapshots() == SNAPSHOTS
    assert ledger.fact("head") == HEAD
    assert [ledger.fact(name) for name in ("identity", "port", "peers")] == [None] * 3
    assert folder.contact == contact
    assert (ledger.rollbacks(), ledger.heads(), ledger.logs.lengths()) == ([], [], {})


def opens_as_todays(path: Path, contact: Contact = CONTACT) -> None:
    folder = RunFolder.open(path)
    check(folder, contact)
    folder.close()
    assert version_of(path) == FORMAT
    assert not list(path.glob("*.damaged-*"))


# Migration ---------------------------------------------------------------------------------------------------------


def test_the_first_format_is_still_read() -> None:
    assert OLDEST_FORMAT == 1
    assert set(schema.MIGRATIONS) == set(range(OLDEST_FORMAT, FORMAT))


def test_a_folder_of_the_first_format_goes_on_as_todays(old: Path) -> None:
    opens_as_todays(old)


def test_so_does_what_a_killed_peer_left(old: Path) -> None:
    """Its last writes are still in the write-ahead log."""
    for path in old.glob("ledger.sqlite*"):
        path.unlink()
    (old / "killed").mkdir()
    db = first_format(old / "killed" / "ledger.sqlite")
    for path in (old / "killed").iterdir():
        shutil.copy(path, old)
    db.close()
    assert (old / "ledger.sqlite-wal").stat().st_size > 0
    opens_as_todays(old)


def test_what_was_migrated_can_do_all_that_a_new_ledger_can(old: Path) -> None:
    folder = RunFolder.open(old)
    batch = Batch(Log(PEERS[0], b"session"), 0, 3, b"records")
    assert folder.ledger.logs.append([batch]) == [batch]
    folder.ledger.add_commit(digest_of(b"commit 3"), 3, HEAD, b"commit 3")
    folder.ledger.add_commit(HEAD, 2, digest_of(b"parent"), b"commit 2")
    seen = folder.ledger.commits_seen()
    assert seen.pop(digest_of(b"commit 3")) > 0
    assert seen == dict.fromkeys(COMMITS, 0), "nobody knows when"
    folder.close()


def test_batches_of_the_second_format_are_still_there(run_folder: Path) -> None:
    for path in run_folder.glob("ledger.sqlite*"):
        path.unlink()
    db = first_format(run_folder / "ledger.sqlite")
    schema.MIGRATIONS[1](db, run_folder)
    batches = [Batch(Log(author, b"session"), at, at + 3, b"%d" % at) for author in PEERS[:2] for at in (0, 3, 6)]
    for batch in batches:
        row = (*batch.log, batch.start, batch.stop, batch.record)
        db.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", row)
    db.execute("PRAGMA user_version = 2")
    db.close()
    folder = RunFolder.open(run_folder)
    logs = folder.ledger.logs
    assert [batch for author in PEERS[:2] for batch in logs.batches(Log(author, b"session"))] == batches
    folder.close()
    assert version_of(run_folder) == FORMAT


def test_opening_it_again_changes_nothing(old: Path) -> None:
    opens_as_todays(old)
    before = content_of(old / "ledger.sqlite"), (old / "ledger.sqlite").read_bytes(), (old / "contact.json").stat()
    opens_as_todays(old)
    assert before == (
        content_of(old / "ledger.sqlite"),
        (old / "ledger.sqlite").read_bytes(),
        (old / "contact.json").stat(),
    )


def test_a_peer_that_knew_nobody_still_knows_nobody(old: Path) -> None:
    with sqlite3.connect(old / "ledger.sqlite") as db:
        db.execute("DELETE FROM facts WHERE name <> 'head'")
    db.close()
    opens_as_todays(old, Contact())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", b"70000"),
        ("port", b"none"),
        ("port", b""),
        ("peers", b"["),
        ("peers", b"7"),
        ("peers", b"[7]"),
        ("peers", b"\xff"),
        ("identity", b"\xff"),
        ("peers", json.dumps(["/a"] * 33).encode()),
    ],
)
def test_facts_that_are_damaged_are_not_in_the_way(old: Path, name: str, value: bytes) -> None:
    with sqlite3.connect(old / "ledger.sqlite") as db:
        db.execute("UPDATE facts SET value = ? WHERE name = ?", (value, name))
    db.close()
    opens_as_todays(old, Contact())


def test_a_damaged_file_of_the_first_format_is_put_aside(old: Path) -> None:
    content = bytearray((old / "ledger.sqlite").read_bytes())
    content[4096:8192] = bytes(4096)
    (old / "ledger.sqlite").write_bytes(content)
    folder = RunFolder.open(old)
    assert folder.ledger.commits(0) == {}
    folder.close()
    assert (old / "ledger.sqlite.damaged-1").exists()


# A crash in the middle ---------------------------------------------------------------------------------------------


def watch(patch: pytest.MonkeyPatch, before: Callable[[str], None]) -> None:
    """Call `before` with every statement, sync and rename from now on."""

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            before(sql)
            return super().execute(sql, *arguments)

    def watched(call: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*given: Any) -> Any:
            before(call)
            return whole(*given)

        return calling

    connect = sqlite3.connect
    patch.setattr(sqlite3, "connect", lambda path, **given: connect(path, factory=Watched, **given))
    patch.setattr(os, "fsync", watched("fsync", os.fsync))
    patch.setattr(Path, "replace", watched("replace", Path.replace))


def steps_of(old: Path, rehearsal: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done while a folder like this is migrated, in its order."""
    steps: list[str] = []
    folder = shutil.copytree(old, rehearsal)
    with monkeypatch.context() as patch:
        watch(patch, steps.append)
        RunFolder.open(folder).close()
    return steps


def fail_at(step: int, error: BaseException, patch: pytest.MonkeyPatch) -> None:
    """Raise at the n-th step, and never again."""
    steps = itertools.count()

    def before(_: str) -> None:
        if next(steps) == step:
            raise error

    watch(patch, before)


ERRORS = [KeyboardInterrupt(), sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_wherever_a_migration_fails_the_folder_is_of_the_first_format_and_is_migrated_the_next_time(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    steps, before = steps_of(old, tmp_path / "rehearsal", monkeypatch), content_of(old / "ledger.sqlite")
    begin, end = steps.index("BEGIN EXCLUSIVE"), steps.index("COMMIT")
    assert {"fsync", "replace", "DELETE FROM facts WHERE name IN ('identity', 'port', 'peers')"} < {*steps[begin:end]}
    for step in range(begin, end + 1):
        folder = shutil.copytree(old, tmp_path / f"failed at step {step}")
        with monkeypatch.context() as patch:
            fail_at(step, error, patch)
            with pytest.raises((type(error), StorageError)) as told:
                RunFolder.open(folder)
        assert not isinstance(told.value, DamagedError), steps[step]
        assert (version_of(folder), content_of(folder / "ledger.sqlite")) == (1, before), steps[step]
        opens_as_todays(folder)


def test_wherever_a_migrating_peer_is_killed_the_folder_is_of_the_one_format_or_the_other(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on disk at each step is what a process that dies there leaves behind."""
    copies: list[Path] = []
    with monkeypatch.context() as patch:
        watch(patch, lambda _: copies.append(shutil.copytree(old, tmp_path / f"killed at step {len(copies)}")))
        opens_as_todays(old)
    versions = [version_of(folder) for folder in copies]
    assert versions == sorted(versions)
    assert set(versions) == {1, FORMAT}
    for folder in copies:
        opens_as_todays(folder)


# Those who only read, and other formats ----------------------------------------------------------------------------


def test_a_reader_leaves_the_migration_to_the_folders_peer(old: Path) -> None:
    before = content_of(old / "ledger.sqlite")
    with pytest.raises(StorageError) as refusal:
        RunFolder.open(old, lock=False)
    assert refusal.value.what == f"{old / 'ledger.sqlite'} has storage format 1"
    assert refusal.value.why == f"only its own peer may bring it to format {FORMAT}"
    assert refusal.value.next_step == f"start that once: p2ptrain peer {old}"
    assert (version_of(old), content_of(old / "ledger.sqlite")) == (1, before)
    assert not (old / "contact.json").exists()
    opens_as_todays(old)
    RunFolder.open(old, lock=False).close()


@pytest.mark.parametrize("lock", [True, False])
@pytest.mark.parametrize(("found", "age"), [(FORMAT + 1, "a newer"), (2**31 - 1, "a newer"), (-1, "an older")])
def test_formats_that_are_not_read_are_refused_with_those_that_are(old: Path, lock: bool, found: int, age: str) -> None:
    with sqlite3.connect(old / "ledger.sqlite") as db:
        db.execute(f"PRAGMA user_version = {found}")
    db.close()
    before = content_of(old / "ledger.sqlite")
    for _ in range(2):  # not "in use" the second time
        with pytest.raises(StorageError) as refusal:
            RunFolder.open(old, lock)
        assert not isinstance(refusal.value, DamagedError), "nothing is put aside"
        assert refusal.value.what == f"{old / 'ledger.sqlite'} has storage format {found}"
        assert refusal.value.why == f"this p2ptrain reads formats {OLDEST_FORMAT} to {FORMAT}"
        assert refusal.value.next_step == f"use {age} p2ptrain"
    assert (version_of(old), content_of(old / "ledger.sqlite")) == (found, before)


def test_a_format_that_is_read_no_more_is_refused(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OLDEST_FORMAT", 2)
    with pytest.raises(StorageError, match="has storage format 1") as refusal:
        RunFolder.open(old)
    assert refusal.value.next_step == "use an older p2ptrain"
    assert version_of(old) == 1
