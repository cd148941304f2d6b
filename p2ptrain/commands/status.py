"""An observer's view of a run: the directory's presence records, nothing else."""

from __future__ import annotations

import json
import sys

from rich.console import Console

from p2ptrain.errors import InviteError
from p2ptrain.monitor import peers_lines, peers_table
from p2ptrain.run import Digest, PeerId, short
from p2ptrain.state.passing import passing
from p2ptrain.swarm import Invite, Presence
from p2ptrain.units import counted


def show_status(invite: Invite, json_lines: bool) -> None:
    """Print the run's peers as a table, plain lines or JSON lines.

    Raises:
        InviteError: the invite names no run.
        NetworkError: nobody there answers.
        AccessError: the run is private, and the invite does not let anybody in any more.
    """
    if invite.run is None:
        raise InviteError(
            "this invite is a bootstrap node's, not a run's",
            "it leads to a swarm but names no run in it",
            "use the invite that a peer of the run printed",
        )
    presences = list(read_directory(invite, invite.run).values())
    if json_lines:
        for seen in presences:
            fields = seen.model_dump(exclude={"signature"})
            print(json.dumps({key: _plain(value) for key, value in fields.items()}))
    elif sys.stdout.isatty():
        console = Console()
        title = f"run {short(invite.run)}: {counted(len(presences), 'peer')}"
        console.print(peers_table(presences, title=title, width=console.width))
    else:
        print("\n".join(peers_lines(presences)) or "no peers")


def read_directory(invite: Invite, run: Digest) -> dict[PeerId, Presence]:
    """The run's peers, seen in passing."""
    with passing(invite) as swarm:
        return swarm.run(swarm.directory.peers(run), 30.0)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value
