"""p2ptrain status INVITE, p2ptrain status NAME"""

from __future__ import annotations

from p2ptrain.cli import options as o


def status(
    invite: o.InviteOrName, bootstrap: o.Swarms = None, nodes: o.Nodes = None, json_lines: o.Json = False
) -> None:
    """Show who trains in a run.

    Asks the swarm's directory, and takes no part in the run.
    """
    from p2ptrain.lean import spare_torch

    spare_torch()  # before anything imports hivemind
    from p2ptrain.commands.runs import find_run, is_name, swarms_to_look_in, warn
    from p2ptrain.commands.status import show_status
    from p2ptrain.swarm import Invite

    if is_name(invite):
        seen = find_run(invite, swarms_to_look_in(bootstrap or (), nodes, warn), warn)
        show_status(seen.invite, json_lines)
    else:
        show_status(Invite.parse(invite), json_lines)
