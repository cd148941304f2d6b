"""The tables of a ledger, and the number of a run folder's format."""

from __future__ import annotations

FORMAT = 4
"""The format of the ledger and of the records beside it. A folder of another format is refused. The number grows by one
with every change after which an existing folder would be read wrongly or not at all."""

SCHEMA = """
CREATE TABLE commits (
    digest BLOB PRIMARY KEY, height INTEGER NOT NULL, parent BLOB NOT NULL, record BLOB NOT NULL, seen INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX commits_by_height ON commits (height);
CREATE TABLE payloads (digest BLOB PRIMARY KEY, height INTEGER NOT NULL, bytes BLOB NOT NULL);
CREATE INDEX payloads_by_height ON payloads (height);
CREATE TABLE snapshots (
    state BLOB PRIMARY KEY, height INTEGER NOT NULL, manifest BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE head (row INTEGER PRIMARY KEY CHECK (row = 1), digest BLOB NOT NULL);
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
CREATE TABLE logs (log INTEGER PRIMARY KEY, author TEXT NOT NULL, session BLOB NOT NULL, UNIQUE (author, session));
CREATE TABLE batches (
    log INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL, seen INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (log, start)
) WITHOUT ROWID;
"""
