"""Checks of a one-byte run's folder: its logs are read anew, and any past state can be computed from a snapshot.

The ledger may be read while its peer trains. Every signature and digest is checked again.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from p2ptrain.errors import LedgerError, MalformedError, P2PTrainError, StorageError
from p2ptrain.run import Digest, PeerId, short, short_peer
from p2ptrain.run.access import owners_of
from p2ptrain.spsa.archive import Archive, take_cut
from p2ptrain.spsa.logbook import Logbook
from p2ptrain.spsa.messages import Mark
from p2ptrain.spsa.position import Position, distance, total, unpacked
from p2ptrain.spsa.replica import Progress, Replica
from p2ptrain.spsa.snapshots import load_state
from p2ptrain.spsa.state import MasterManifest, MasterState
from p2ptrain.state import RunFolder
from p2ptrain.state.check import Check
from p2ptrain.state.logs import Log

WRONG_BASE = "the snapshot of 0 records is not the base that the genesis names"


@dataclass(frozen=True, slots=True)
class Share:
    """How much one peer has measured."""

    peer: PeerId
    logs: int
    records: int
    standing: int
    """The number of these records that count."""
    share: float
    """Part of all records that count, between 0 and 1."""


class Past:
    """A run folder's logs, and the states to which they lead.

    Raises:
        LedgerError: a log is damaged.
        MalformedError: a cut is damaged.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self.archive = folder, Archive(folder.ledger)
        self.book = Logbook(folder.run, owners_of(folder.genesis, folder.spec))
        for log in sorted(folder.ledger.logs.lengths()):
            start = self.archive.take_into(self.book, log)
            if start is not None:
                what = f"a log of {short_peer(log.author)} is damaged from record {start} on"
                raise LedgerError(what, "", "start the peer: it fetches these records again")
        for data in self.archive.cuts():  # after the logs: a logbook takes no batch beyond a cut
            take_cut(self.book, data)

    def snapshots(self) -> Iterator[MasterState]:
        """The whole snapshots on disk, newest first."""
        for row in self._folder.ledger.snapshots():
            try:
                yield load_state(self._folder, row)
            except P2PTrainError:
                continue

    def state_at(self, position: Position, progress: Progress = lambda done, in_all: None) -> MasterState:
        """The state at a position, computed from the nearest snapshot.

        Raises:
            StorageError: no snapshot is whole.
            LedgerError: a record is missing.
        """
        near = min(self.snapshots(), key=lambda state: distance(state.position, position), default=None)
        if near is None:
            what = f"{self._folder.path} holds no whole snapshot"
            raise StorageError(what, "", "start the peer: it fetches what is missing")
        return self.moved(near, position, progress)

    def moved(
        self, state: MasterState, position: Position, progress: Progress = lambda done, in_all: None
    ) -> MasterState:
        """The state at a position, computed from `state`. Raises LedgerError if a record is missing."""
        replica = Replica(self._folder.run, self._folder.spec.spsa, state)
        replica.move(position, self.archive, progress)
        return replica.state()

    def shares(self, position: Position | None = None) -> list[Share]:
        """How much each peer has measured, the most first. Records beyond `position`, if there is one, do not count."""
        lengths, counting = self.book.lengths(), self.book.standing() if position is None else position
        by_author: dict[PeerId, list[Log]] = defaultdict(list)
        for log in lengths:
            by_author[log.author].append(log)
        in_all, found = max(1, total(counting)), []
        for author, logs in by_author.items():
            standing = sum(counting.get(log, 0) for log in logs)
            found.append(Share(author, len(logs), sum(lengths[log] for log in logs), standing, standing / in_all))
        return sorted(found, key=lambda share: (-share.standing, share.peer))

    def in_order(self, position: Position) -> dict[Log, int]:
        """A position with its logs in the order in which they came to this folder."""
        return {log: position[log] for log in self._folder.ledger.logs.lengths() if log in position}

    def position_of(self, records: int) -> Position:
        """The position of the snapshot that holds `records` records.

        Raises:
            StorageError: there is no such snapshot.
        """
        known: dict[int, Position] = {}
        for row in self._folder.ledger.snapshots():
            with contextlib.suppress(MalformedError):
                known[row.height] = unpacked(MasterManifest.decode(row.manifest).position)
        if records not in known:
            what, told = f"{self._folder.path} has no snapshot of {records} records", ", ".join(map(str, sorted(known)))
            why = f"it has snapshots of {told} records" if told else "it has no snapshots"
            raise StorageError(what, why, "choose one of them, or rebuild any other state with `p2ptrain replay`")
        return known[records]

    def marks(self) -> list[tuple[Mark, int]]:
        """(mark, number of records at its position), newest first. Raises MalformedError if one is damaged."""
        rows = self._folder.ledger.logs.marks()
        return [(Mark.decode(row.record).check_signature(), row.records) for row in rows]

    def at_time(self, when: float) -> dict[Log, int]:
        """The records that had come by `when`, in seconds since 1970 by this machine's clock, and are not cut now."""
        there = self._folder.ledger.logs.lengths(when)
        return {log: min(count, there.get(log, 0)) for log, count in self.book.standing().items() if log in there}


def audit(folder: RunFolder, base: int | None = None) -> Iterator[Check]:
    """Check a folder, one subject after another. See `Method.audit`; here a height is a number of records.

    Genesis and spec were checked when the folder was opened.
    """
    yield Check("genesis", True, f"signed by its founder {folder.genesis.author}, and this is its spec")
    try:
        past = Past(folder)
    except (LedgerError, MalformedError) as error:
        yield Check("logs", False, error.brief)
        return
    lengths, standing = past.book.lengths(), past.book.standing()
    cut = total(lengths) - total(standing)
    beside = f"; {cut:,} of them are cut off" if cut else ""
    yield Check("logs", True, f"{len(lengths)} with {total(lengths):,} records, signed by their authors{beside}")
    try:
        yield Check("marks", True, f"{len(past.marks())}, signed")
    except MalformedError as error:
        yield Check("marks", False, error.brief)
    for digest in folder.ledger.damaged("snapshots"):
        yield Check("snapshot", False, f"state {short(digest)}: its manifest is damaged")
    whole = []
    for row in folder.ledger.snapshots():
        try:
            whole.append(load_state(folder, row))
            yield Check("snapshot", True, f"{row.height:,} records, state {short(row.state)}: whole")
        except P2PTrainError as error:
            yield Check("snapshot", False, f"{row.height:,} records, state {short(row.state)}: {error.brief}")
    try:
        yield from _replay(folder, past, whole, base)
    except LedgerError as error:  # a snapshot holds records that are not in the logs
        yield Check("replay", False, error.brief)


def _replay(folder: RunFolder, past: Past, snapshots: list[MasterState], base: int | None) -> Iterator[Check]:
    starts = [state for state in snapshots if base in (None, state.records)]
    if not starts:
        if base is not None:
            told = ", ".join(f"{state.records:,}" for state in snapshots)
            why = f"there are whole snapshots of {told} records" if told else "no snapshot is whole"
            raise StorageError(f"there is no whole snapshot of {base:,} records", why)
        yield Check("replay", False, "no snapshot is whole")
        return
    start = min(starts, key=lambda state: state.records)
    if start.records == 0 and start.digest != folder.genesis.base:
        yield Check("replay", False, WRONG_BASE)
        return
    for state in sorted(snapshots, key=lambda found: found.records):
        if state is not start:
            reached = past.moved(start, state.position)
            good = reached.digest == state.digest
            found = "the logs lead to it" if good else f"the logs lead to state {short(reached.digest)}"
            yield Check("replay", good, f"{state.records:,} records, state {short(state.digest)}: {found}")
    head = past.moved(start, past.book.standing())
    text = f"from {start.records:,} records to all that count: {head.records:,} records, state {head.digest.hex()}"
    yield Check("replay", True, text)


def check_against(folder: RunFolder, state: Digest, position: Position) -> Check:
    """Whether a folder's logs lead to `state` at `position`, from the earliest whole snapshot."""
    try:
        past = Past(folder)
        start = min(past.snapshots(), key=lambda found: found.records, default=None)
        if start is None:
            return Check("ledger", False, f"{folder.path} holds no whole snapshot")
        reached = past.moved(start, position)
    except (LedgerError, MalformedError) as error:
        return Check("ledger", False, error.brief)
    found = f"{folder.path} has state {short(reached.digest)} after these {reached.records:,} records"
    if start.records:
        found += f", replayed from a snapshot of {start.records:,}"
    elif start.digest != folder.genesis.base:
        return Check("ledger", False, WRONG_BASE)
    good = reached.digest == state
    return Check("ledger", good, found if good else f"{found}, not {short(state)}")
