"""The ledger of one run on disk: commits, the bytes of contributions, snapshots, the head, and what happened to it.

The ledger knows digests, heights and bytes; the method knows what they mean. Whatever it returns under a digest has
that digest. Bytes that the disk has changed count as missing, and storing them again replaces them. `logs` is the part
for authors' logs. Any thread may call it; `database` says what a write guarantees.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Literal

from p2ptrain.run import NO_DIGEST, Digest, PeerId, digest_of
from p2ptrain.run.digest import Buffer
from p2ptrain.state.database import Database
from p2ptrain.state.logs import Logs

Filed = Literal["commits", "payloads", "snapshots"]
_NAMED_AND_KEPT: dict[Filed, tuple[str, str]] = {
    "commits": ("digest", "record"),
    "payloads": ("digest", "bytes"),
    "snapshots": ("state", "manifest"),
}
"""Tables whose rows are named by the digest of their content: the column of the digest and that of the content."""


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One complete snapshot on disk: the digest of its state, and the manifest that this digest names."""

    state: Digest
    height: int
    """In a one-byte run: the number of records before the mark at which it was taken."""
    manifest: bytes


@dataclass(frozen=True, slots=True)
class Rollback:
    """Commits that this peer had applied and has taken back, because another branch was heavier."""

    old: Digest
    """The head before. Its branch stays in the ledger."""
    new: Digest
    commits: int
    tokens: int
    """Tokens that only the commits taken back count, not those that replaced them."""
    own_tokens: int
    """How many of these tokens this peer itself has trained on."""
    seen: int = 0
    """Seconds since 1970 by this machine's clock."""


@dataclass(frozen=True, slots=True)
class HeadSeen:
    """Where in the run a peer last said that it was. `head` is its presence record."""

    peer: PeerId
    height: int
    head: bytes
    seen: int = 0


class Ledger:
    """The ledger in one file. `Database` says what the arguments mean, and what every method can raise."""

    def __init__(self, path: Path, owned: bool = True) -> None:
        self.path, self._db = path, Database(path, owned)
        self.was_empty = self._db.made
        self.logs = Logs(self._db)

    def close(self) -> None:
        self._db.close()

    # Commits -------------------------------------------------------------------------------------------------------

    def add_commit(self, digest: Digest, height: int, parent: Digest, record: bytes) -> None:
        """Keep a commit of any branch. Commits are never deleted."""
        with self._db.write() as db:
            anew = "height = excluded.height, parent = excluded.parent, record = excluded.record"
            query = f"INSERT INTO commits VALUES (?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET {anew}"
            db.execute(query, (digest, height, parent, record, int(time.time())))

    def commit(self, digest: Digest) -> bytes | None:
        """The record of a commit; None if it is not here or damaged."""
        return _whole(digest, self._db.value("SELECT record FROM commits WHERE digest = ?", digest))

    def commits(self, above: int) -> dict[Digest, bytes]:
        """The records of all commits above this height on all branches, by digest, the lowest height first."""
        rows = self._db.rows("SELECT digest, record FROM commits WHERE height > ? ORDER BY height", above)
        return {Digest(digest): record for digest, record in rows if _whole(digest, record)}

    def commits_seen(self) -> dict[Digest, int]:
        """When each commit came here, in seconds since 1970 by this machine's clock."""
        return dict(self._db.rows("SELECT digest, seen FROM commits"))

    def add_rollback(self, rollback: Rollback) -> None:
        """Note that commits were taken back, and that it was now."""
        row = astuple(replace(rollback, seen=int(time.time())))
        with self._db.write() as db:
            query = "INSERT INTO rollbacks (old, new, commits, tokens, own_tokens, seen) VALUES (?, ?, ?, ?, ?, ?)"
            db.execute(query, row)

    def rollbacks(self) -> list[Rollback]:
        """All rollbacks, the oldest first."""
        query = "SELECT old, new, commits, tokens, own_tokens, seen FROM rollbacks ORDER BY rowid"
        return list(starmap(Rollback, self._db.rows(query)))

    # Contributions' bytes ------------------------------------------------------------------------------------------

    def add_payload(self, digest: Digest, height: int, data: Buffer) -> None:
        """Keep the bytes of a contribution for this height; for the highest one, if they were added for several."""
        with self._db.write() as db:
            anew = "height = max(height, excluded.height), bytes = excluded.bytes"
            query = f"INSERT INTO payloads VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE SET {anew}"
            db.execute(query, (digest, height, data))

    def keep_payloads(self, needed: Iterable[tuple[Digest, int]]) -> None:
        """Keep payloads for these heights, too, if they are here."""
        with self._db.write() as db:
            rows = [(height, digest, height) for digest, height in needed]
            db.executemany("UPDATE payloads SET height = ? WHERE digest = ? AND height < ?", rows)

    def payload(self, digest: Digest) -> bytes | None:
        """The bytes of a contribution; None if they are not here or damaged."""
        return _whole(digest, self._db.value("SELECT bytes FROM payloads WHERE digest = ?", digest))

    def payload_part(self, digest: Digest, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a contribution, unchecked; empty if it is not here any more."""
        with self._db.read() as db, db:
            db.execute("BEGIN")  # else a writer could delete the row between the two queries
            row = db.execute("SELECT rowid FROM payloads WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                return b""
            with db.blobopen("payloads", "bytes", row[0], readonly=True) as blob:  # `substr` would read all of it
                blob.seek(min(start, len(blob)))
                return blob.read(stop - start)

    def payload_digests(self) -> list[Digest]:
        return [digest for (digest,) in self._db.rows("SELECT digest FROM payloads")]

    def payload_bytes(self, above: int) -> int:
        """Bytes that the contributions for all heights above this one take together."""
        [(total,)] = self._db.rows("SELECT coalesce(sum(length(bytes)), 0) FROM payloads WHERE height > ?", above)
        return int(total)

    def drop_payloads(self, height: int) -> list[Digest]:
        """Delete the bytes of contributions up to `height`, which a snapshot contains. Returns their digests."""
        with self._db.write() as db:
            rows = db.execute("DELETE FROM payloads WHERE height <= ? RETURNING digest", (height,)).fetchall()
        return [Digest(digest) for (digest,) in rows]

    # Snapshots -----------------------------------------------------------------------------------------------------

    def add_snapshot(self, row: SnapshotRow) -> None:
        with self._db.write() as db:
            db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (row.state, row.height, row.manifest))

    def snapshots(self) -> list[SnapshotRow]:
        """All snapshots that are not damaged, the newest first."""
        rows = starmap(SnapshotRow, self._db.rows("SELECT state, height, manifest FROM snapshots ORDER BY height DESC"))
        return [row for row in rows if _whole(row.state, row.manifest)]

    def drop_snapshots(self, states: Iterable[Digest]) -> None:
        with self._db.write() as db:
            db.executemany("DELETE FROM snapshots WHERE state = ?", [(state,) for state in states])

    # Where this peer is, and where others were -----------------------------------------------------------------------

    @property
    def head(self) -> Digest:
        """The commit that this peer last set its head to; NO_DIGEST if it has never set one."""
        return Digest(self._db.value("SELECT digest FROM head") or NO_DIGEST)

    def set_head(self, commit: Digest) -> None:
        with self._db.write() as db:
            db.execute("INSERT OR REPLACE INTO head VALUES (1, ?)", (commit,))

    def see_heads(self, heads: Iterable[HeadSeen]) -> None:
        """Note where peers are now. The ledger keeps the last position of each peer."""
        with self._db.write() as db:
            rows = [(head.peer, int(time.time()), head.height, head.head) for head in heads]
            db.executemany("INSERT OR REPLACE INTO heads (peer, seen, height, head) VALUES (?, ?, ?, ?)", rows)

    def heads(self) -> list[HeadSeen]:
        """The last position of each peer, the latest first."""
        query = "SELECT peer, height, head, seen FROM heads ORDER BY seen DESC, peer"
        return list(starmap(HeadSeen, self._db.rows(query)))

    # Damage ----------------------------------------------------------------------------------------------------------

    def damaged(self, table: Filed) -> list[Digest]:
        """The digests of rows whose content has changed on disk. They count as missing."""
        digest, data = _NAMED_AND_KEPT[table]
        with self._db.read() as db:
            rows = db.execute(f"SELECT {digest}, {data} FROM {table}")
            return [Digest(name) for name, content in rows if not _whole(name, content)]

    def drop_damaged(self, table: Filed) -> int:
        """Delete damaged rows. Returns how many there were."""
        bad = self.damaged(table)
        if bad:
            name, _ = _NAMED_AND_KEPT[table]
            with self._db.write() as db:
                db.executemany(f"DELETE FROM {table} WHERE {name} = ?", [(digest,) for digest in bad])
        return len(bad)


def _whole(digest: bytes, data: object) -> bytes | None:
    return data if isinstance(data, bytes) and digest_of(data) == digest else None
