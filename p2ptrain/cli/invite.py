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
    days: Annotated[
        float | None, typer.Option(min=0.01, max=36_500, help="How long the membership lasts [default: 90].")
    ] = None,
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
    asked = {"--list": list_all, "--revoke": revoke is not None, "--renew": renew is not None}
    means_nothing = {
        "--label": bool(label),
        "--peer": peer is not None,
        "--qr": qr,
        "--days": days is not None and renew is None,
        "--json": json_lines and not list_all,
    }
    if sum(asked.values()) > 1:
        raise typer.BadParameter("give one of --list, --revoke and --renew")
    for option in (name for name, given in asked.items() if given):
        for other in (name for name, given in means_nothing.items() if given):
            raise typer.BadParameter(f"{other} means nothing with {option}")
    if qr and json_lines:
        raise typer.BadParameter("give --qr or --json, not both")
    from p2ptrain.lean import spare_torch

    spare_torch()  # before anything imports hivemind
    from p2ptrain.commands import invite as inviting
    from p2ptrain.state.inviting import MEMBER_DAYS

    folder = o.run_folder(run_dir)
    if list_all:
        inviting.show_invites(folder, json_lines)
    elif revoke is not None:
        print(inviting.close_invite(folder, revoke, owner_key))
    elif renew is not None:
        print(inviting.renew(folder, renew, MEMBER_DAYS if days is None else days, owner_key))
    else:
        link = str(inviting.make_invite(folder, label, days, peer, owner_key))
        print(json.dumps({"event": "invite", "invite": link, "label": label}) if json_lines else link)
        if qr:
            import segno

            segno.make(link, error="l").terminal(compact=True)
