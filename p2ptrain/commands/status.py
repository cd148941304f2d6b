"""`p2ptrain status`: the peers of a run, as the directory of the swarm lists them."""

from __future__ import annotations

from rich.console import Console

from p2ptrain.commands.listing import print_list
from p2ptrain.errors import InviteError
from p2ptrain.monitor import peers_lines, peers_table
from p2ptrain.run import short
from p2ptrain.state.passing import passing
from p2ptrain.swarm import Invite
from p2ptrain.units import counted

LOOK_SECONDS = 30.0


def show_status(invite: Invite, json_lines: bool) -> None:
    """Print the run's peers as a table, plain lines or JSON lines.

    Raises:
        InviteError: the invite names no run.
        NetworkError: nobody there answers.
        AccessError: the run is private, and the invite does not let anybody in any more.
    """
    if invite.run is None:
        what, why = "this invite is a bootstrap node's, not a run's", "it leads to a swarm but names no run in it"
        raise InviteError(what, why, "use the invite that a peer of the run printed")
    with passing(invite) as swarm:
        presences = list(swarm.run(swarm.directory.peers(invite.run), LOOK_SECONDS).values())
    facts = (seen.model_dump(exclude={"signature"}) for seen in presences)
    title = f"run {short(invite.run)}: {counted(len(presences), 'peer')}"
    table = peers_table(presences, title=title, width=Console().width)
    print_list(json_lines, facts, table, peers_lines(presences), "no peers")
