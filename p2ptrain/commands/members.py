"""`p2ptrain members`: who is or was a member of a private run."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from p2ptrain.commands.listing import lines_of, print_list, table_of
from p2ptrain.commands.visiting import members_of
from p2ptrain.run import short_peer
from p2ptrain.run.access import Member, day
from p2ptrain.state import RunFolder


def show_members(run_dir: Path, json_lines: bool) -> None:
    """Print the members of a private run, past ones too, as far as this folder knows. It needs no network. Raises
    StorageError if `run_dir` is no run folder, and AccessError if the run is public."""
    with RunFolder.open(run_dir, lock=False) as folder:
        members = members_of(folder).members(time.time())
    columns, rows = ("peer", "role", "invite", "invited by", "until", "state"), list(map(_cells, members))
    print_list(json_lines, map(asdict, members), table_of(columns, rows), lines_of(columns, rows), "no members")


def _cells(member: Member) -> tuple[str, ...]:
    until = "–" if member.expires is None else day(member.expires)
    return (
        short_peer(member.peer),
        member.role,
        member.label,
        short_peer(member.invited_by),
        until,
        member.refusal or "in",
    )
