"""The tables of a ledger, and how ledgers of older formats become today's.

Format 1: commits, payloads, snapshots, and everything else as named facts.
Format 2: when a commit was first seen here; what rollbacks cost; others' heads; authors' logs, cuts and marks; how to
          reach others is a file beside the ledger (`contact.json`), which a damaged ledger does not take along.
Format 3: an author's name is kept once for each log, not with every batch; when a batch came here.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from p2ptrain.state.contact import Contact

FORMAT = 3
OLDEST_FORMAT = 1

_NEW_IN_2 = """
CREATE TABLE rollbacks (
    seen INTEGER NOT NULL, old BLOB NOT NULL, new BLOB NOT NULL,
    commits INTEGER NOT NULL, tokens INTEGER NOT NULL, own_tokens INTEGER NOT NULL
);
CREATE TABLE heads (
    peer TEXT PRIMARY KEY, seen INTEGER NOT NULL, height INTEGER NOT NULL, head BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE cuts (
    author TEXT NOT NULL, session BLOB NOT NULL, at INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (author, session, at, record)
) WITHOUT ROWID;
CREATE TABLE marks (digest BLOB PRIMARY KEY, position INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
"""

_BATCHES_OF_2 = """
CREATE TABLE batches (
    author TEXT NOT NULL, session BLOB NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (author, session, start)
);
"""

_NEW_IN_3 = """
CREATE TABLE logs (log INTEGER PRIMARY KEY, author TEXT NOT NULL, session BLOB NOT NULL, UNIQUE (author, session));
CREATE TABLE batches (
    log INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL, seen INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (log, start)
) WITHOUT ROWID;
"""

SCHEMA = f"""
CREATE TABLE commits (
    digest BLOB PRIMARY KEY, height INTEGER NOT NULL, parent BLOB NOT NULL, record BLOB NOT NULL,
    seen INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX commits_by_height ON commits (height);
CREATE TABLE payloads (digest BLOB PRIMARY KEY, height INTEGER NOT NULL, bytes BLOB NOT NULL);
CREATE INDEX payloads_by_height ON payloads (height);
CREATE TABLE snapshots (
    state BLOB PRIMARY KEY, height INTEGER NOT NULL, manifest BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
{_NEW_IN_2}
{_NEW_IN_3}
"""


def _from_1_to_2(db: sqlite3.Connection, folder: Path) -> None:
    facts = dict(db.execute("SELECT name, value FROM facts WHERE name IN ('identity', 'port', 'peers')"))
    try:
        contact = Contact(
            identity=facts.get("identity", b"").decode(),
            port=int(facts.get("port", b"0")),
            peers=tuple(json.loads(facts.get("peers", b"[]"))),
        )
    except (ValueError, TypeError):  # damaged: as if nothing were known
        contact = Contact()
    contact.write(folder)  # first: if this process dies now, the ledger still has them and this is done again
    db.execute("DELETE FROM facts WHERE name IN ('identity', 'port', 'peers')")
    db.execute("ALTER TABLE commits ADD COLUMN seen INTEGER NOT NULL DEFAULT 0")
    _run(db, _NEW_IN_2 + _BATCHES_OF_2)


def _from_2_to_3(db: sqlite3.Connection, folder: Path) -> None:
    db.execute("ALTER TABLE batches RENAME TO batches_of_2")
    _run(db, _NEW_IN_3)
    db.execute("INSERT INTO logs (author, session) SELECT DISTINCT author, session FROM batches_of_2")
    db.execute(
        "INSERT INTO batches SELECT log, start, stop, 0, record FROM batches_of_2 JOIN logs USING (author, session)"
    )
    db.execute("DROP TABLE batches_of_2")


def _run(db: sqlite3.Connection, statements: str) -> None:
    for statement in filter(str.strip, statements.split(";")):  # `executescript` would commit what was begun
        db.execute(statement)


MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection, Path], None]] = MappingProxyType(
    {1: _from_1_to_2, 2: _from_2_to_3}
)
"""By the format that each begins from; they run inside one transaction."""
