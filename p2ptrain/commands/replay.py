"""`p2ptrain replay`: rebuild a past state of a one-byte run from its logs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from p2ptrain.commands.export import check_is_free, write
from p2ptrain.errors import StorageError, UsageError
from p2ptrain.peer.session import prepare_torch
from p2ptrain.spsa.audit import Past
from p2ptrain.spsa.method import past_state
from p2ptrain.spsa.position import total
from p2ptrain.state import RunFolder
from p2ptrain.state.logs import Log
from p2ptrain.tasks import LocalOptions, open_task


def replay(run_dir: Path, to: tuple[str, ...], at: str | None, out: Path | None, model: str | None) -> None:
    """Rebuild a state and print its digest. It works beside a running peer.

    Args:
        to: texts PEER:RECORDS, where PEER is the ending of a peer id: the state that comes from so many first records
            of each such peer, and from no other peer's. Empty: the state of all records.
        at: date and time in ISO 8601: the state of all records that had arrived in this folder by then.
        out: folder to export the state to; None: only print the digest.
        model: folder with the pretrained model, for the export; None: what the run names.

    Raises:
        UsageError: `to` or `at` is malformed.
        SpecError: the run is no one-byte run.
        StorageError: `run_dir` is no run folder, it has no such author or records, or `out` can't be written.
        LedgerError: a record is missing or damaged.
    """
    if out is not None:
        check_is_free(out)
    prepare_torch(None)
    with RunFolder.open(run_dir, lock=False) as folder:
        _ = folder.spec.spsa  # raises SpecError if the run has another method
        past = Past(folder)
        position = past.book.standing()
        if to:
            position = _position_of(past, to)
        elif at is not None:
            position = past.at_time(_seconds(at))
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("replaying")
            state = past.state_at(position, lambda done, in_all: progress.update(bar, completed=done, total=in_all))
        print(f"{total(position):,} records of {len(position)} logs: state {state.digest.hex()}")
        if out is not None:
            task = open_task(folder.spec, LocalOptions(device="cpu", model=model), trains=False)
            print(write(folder, task, out, past_state(past, state)))


def _position_of(past: Past, to: tuple[str, ...]) -> dict[Log, int]:
    """The position that the texts PEER:RECORDS stand for."""
    standing, position = past.book.standing(), dict[Log, int]()
    for text in to:
        author, _, count = text.rpartition(":")
        if not author or not count.isdecimal():
            why = "PEER is the ending of a peer id, and RECORDS is a number of its records"
            raise UsageError(f"--to {text} is not PEER:RECORDS", why, "write it like --to abc123:5000")
        logs = [log for log in past.in_order(standing) if log.author.endswith(author)]
        if len({log.author for log in logs}) != 1:
            known = ", ".join(f"{share.peer[-6:]} ({share.standing:,})" for share in past.shares())
            raise StorageError(
                f"found {'several peers' if logs else 'no peer'} with records for --to {text}",
                f"the peers and their records are: {known or 'none'}",
                "give more characters from the end of the peer id",
            )
        left = int(count)
        for log in logs:
            position[log] = min(left, standing[log])
            left -= position[log]
        if left:
            why = f"only {int(count) - left:,} records of that peer count"
            raise StorageError(f"--to {text} asks for too many records", why, "give a smaller number")
    return {log: kept for log, kept in position.items() if kept}


def _seconds(at: str) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        why = "it must be in the format ISO 8601; the time zone is this machine's"
        raise UsageError(f"--at {at} is not a date and time", why, "write it like 2026-11-21T18:30") from None
