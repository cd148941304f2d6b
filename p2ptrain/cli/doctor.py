"""p2ptrain doctor [INVITE]"""

from __future__ import annotations

from typing import Annotated

import typer

from p2ptrain.cli import options as o


def doctor(
    invite: Annotated[str | None, typer.Argument(help="An invite: is its swarm in reach, and its run in size?")] = None,
    home: o.Home = None,
    identity: o.IdentityFile = None,
    listen: o.Listen = None,
    announce: o.Announce = None,
    device: o.Device = "auto",
    json_lines: o.Json = False,
) -> None:
    """Check whether this machine can train and, with an invite, whether it can join: ends with 1 if there is a
    problem."""
    from p2ptrain.doctor import DoctorOptions, run_doctor

    given = DoctorOptions(invite, home, identity, tuple(listen) if listen else None, tuple(announce or ()), device)
    raise typer.Exit(run_doctor(given, json_lines))
