"""p2ptrain doctor [INVITE]"""

from __future__ import annotations

from typing import Annotated

import typer

from p2ptrain.cli import options as o
from p2ptrain.peer import Volunteer


@o.takes_volunteer("home", "identity", "listen", "announce", "device")
def doctor(
    invite: Annotated[
        str | None,
        o.argument("INVITE", "Invite to check: does its swarm answer, and does this machine suffice for its run?"),
    ] = None,
    *,
    volunteer: Volunteer,
    json_lines: o.Json = False,
) -> None:
    """Check whether this machine can train, and can join a run.

    Exits with 1 if it finds a problem.
    """
    from p2ptrain.doctor import run_doctor

    raise typer.Exit(run_doctor(volunteer, invite, json_lines))
