"""`p2ptrain replay`: any past state of a one-byte run, from its logs."""

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
    """Rebuild a state and print its digest; works beside a running peer.

    Args:
        to: PEER:RECORDS each, the author as the ending of a peer id: so many of its records, in the order in which it
            said them; of authors that are not named, none.
        at: ISO time; what had arrived in this folder by then.
        out: a folder to export the state to.

    Raises:
        UsageError: `to` or `at` is malformed.
        StorageError: no one-byte run's folder, no such author or records, or `out` can't be written.
        LedgerError: a record is missing.
    """
    if out is not None:
        check_is_free(out)
    prepare_torch(None)
    with RunFolder.open(run_dir, lock=False) as folder:
        _ = folder.spec.spsa  # raises: another method
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
            task = open_task(folder.spec, LocalOptions(device="cpu", model=model))
            print(write(folder, task, out, past_state(past, state)))


def _position_of(past: Past, to: tuple[str, ...]) -> dict[Log, int]:
    """The position that PEER:RECORDS… stand for."""
    standing, position = past.book.standing(), dict[Log, int]()
    for text in to:
        author, _, count = text.rpartition(":")
        if not author or not count.isdecimal():
            raise UsageError(
                f"--to {text} is not PEER:RECORDS",
                "PEER is the ending of a peer id, and RECORDS is a number of its records",
                "write it like --to abc123:5000",
            )
        logs = [log for log in past.in_order(standing) if log.author.endswith(author)]
        if len({log.author for log in logs}) != 1:
            known = ", ".join(f"{share.peer[-6:]} ({share.standing:,})" for share in past.shares())
            raise StorageError(
                f"--to {text} names {'several authors' if logs else 'no author'} of this run",
                f"the authors and their records are: {known or 'none'}",
                "give the ending of one peer id",
            )
        left = int(count)
        for log in logs:
            position[log] = min(left, standing[log])
            left -= position[log]
        if left:
            raise StorageError(
                f"--to {text}: only {int(count) - left:,} records of that author count", "", "give a smaller number"
            )
    return {log: kept for log, kept in position.items() if kept}


def _seconds(at: str) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        raise UsageError(
            f"--at {at} is no time",
            "it must be a date and a time in this machine's zone",
            "write it like 2026-11-21T18:30",
        ) from None
