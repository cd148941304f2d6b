"""p2ptrain status INVITE"""

from __future__ import annotations

from typing import Annotated

import typer

from p2ptrain.cli import options as o


def status(
    invite: Annotated[str, typer.Argument(help="An invite of the run.")],
    json_lines: o.Json = False,
) -> None:
    """Show who trains in a run, from the swarm's presence records alone."""
    from p2ptrain.lean import spare_torch

    spare_torch()  # before anything imports hivemind
    from p2ptrain.peer.status import show_status
    from p2ptrain.swarm import Invite

    show_status(Invite.parse(invite), json_lines)
