"""p2ptrain bootstrap"""

from __future__ import annotations

from typing import Annotated

import typer

from p2ptrain.cli import options as o


def bootstrap(
    invite: Annotated[str | None, typer.Argument(help="Invite of a swarm to help; without one a new swarm.")] = None,
    home: o.Home = None,
    identity: o.IdentityFile = None,
    listen: o.Listen = None,
    announce: o.Announce = None,
    json_lines: o.Json = False,
) -> None:
    """Give newcomers a first address, and a relay to those behind NAT; trains nothing."""
    from p2ptrain.peer.bootstrap import run_bootstrap
    from p2ptrain.state.run import default_home
    from p2ptrain.swarm import Invite

    addresses = Invite.parse(invite).addresses if invite else ()
    run_bootstrap(home or default_home(), identity, o.node_config(listen, announce, addresses), json_lines)
