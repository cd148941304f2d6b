"""p2ptrain invite RUN_DIR"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli import options as o


def invite(
    run_dir: Annotated[Path, typer.Argument(help="Name or folder of the run; of a private one, an owner's.")],
    label: Annotated[str, typer.Option(parser=o.parse_name, metavar="TEXT", help="What lists call who comes.")] = "",
    days: Annotated[float, typer.Option(min=0.01, max=36_500, help="How long the membership lasts.")] = 90.0,
    peer: Annotated[str | None, typer.Option(metavar="ID", help="The only peer that the invite is for.")] = None,
    qr: Annotated[bool, typer.Option("--qr", help="Show the link as a QR code, too.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="List the invites that were made here.")] = False,
    revoke: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Close an invite: who came by it stays, nobody else comes.")
    ] = None,
    renew: Annotated[
        str | None, typer.Option(metavar="PEER", help="Give a member more time, by its id, ending or label.")
    ] = None,
    owner_key: o.OwnerKey = None,
    json_lines: o.Json = False,
) -> None:
    """Make a link with which others join a run; of a private run an owner makes, lists and revokes them."""
    from p2ptrain.lean import spare_torch

    spare_torch()  # before anything imports hivemind
    from p2ptrain.peer import invite as inviting

    if sum((list_all, revoke is not None, renew is not None)) > 1:
        raise typer.BadParameter("give one of --list, --revoke and --renew")
    folder = o.run_folder(run_dir)
    if list_all:
        inviting.show_invites(folder, json_lines)
    elif revoke is not None:
        print(inviting.close_invite(folder, revoke, owner_key))
    elif renew is not None:
        print(inviting.renew(folder, renew, days, owner_key))
    else:
        link = str(inviting.make_invite(folder, label, days, peer, owner_key))
        print(json.dumps({"event": "invite", "invite": link, "label": label}) if json_lines else link)
        if qr and not json_lines:
            import segno

            segno.make(link, error="l").terminal(compact=True)
