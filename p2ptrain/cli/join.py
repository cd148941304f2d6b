"""p2ptrain join INVITE, p2ptrain join NAME"""

from __future__ import annotations

import typer

from p2ptrain.caches import provide_caches
from p2ptrain.cli import options as o
from p2ptrain.peer import Volunteer


@o.takes_volunteer()
def join(
    context: typer.Context,
    invite: o.InviteOrName,
    bootstrap: o.Swarms = None,
    nodes: o.Nodes = None,
    *,
    volunteer: Volunteer,
    json_lines: o.Json = False,
) -> None:
    """Join a run and train."""
    provide_caches(volunteer.home)
    from p2ptrain.commands.runs import find_invite, is_name
    from p2ptrain.monitor import make_reporter
    from p2ptrain.peer import run_peer
    from p2ptrain.state.run import Run
    from p2ptrain.swarm import Invite

    parsed = None if is_name(invite) else Invite.parse(invite)
    config, limits, reporter = volunteer.network(), volunteer.limits, make_reporter(json_lines)

    home, identity, name = volunteer.home, volunteer.identity, volunteer.name

    def begin() -> Run:
        found = parsed or find_invite(invite, bootstrap or (), nodes, reporter)
        return Run.join(found, config=config, home=home, identity=identity, limits=limits, name=name)

    run_peer(begin, volunteer, reporter, o.typed_options(context))
