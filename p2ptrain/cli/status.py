"""p2ptrain status INVITE, p2ptrain status NAME"""

from __future__ import annotations

from p2ptrain.cli import options as o
from p2ptrain.lean import spare_torch


def status(
    invite: o.InviteOrName, bootstrap: o.Swarms = None, nodes: o.Nodes = None, json_lines: o.Json = False
) -> None:
    """Show who trains in a run.

    Asks the swarm's directory, and takes no part in the run.
    """
    spare_torch()  # before anything imports hivemind
    from p2ptrain.commands.runs import find_run, is_name, swarms_to_look_in, warn
    from p2ptrain.commands.status import show_status
    from p2ptrain.swarm import Invite

    if is_name(invite):
        asked = find_run(invite, swarms_to_look_in(bootstrap or (), nodes, warn), warn).invite
    else:
        asked = Invite.parse(invite)
    show_status(asked, json_lines)
