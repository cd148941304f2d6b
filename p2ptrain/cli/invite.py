"""p2ptrain invite RUN_DIR"""

from __future__ import annotations

import json
from typing import Annotated

from p2ptrain.cli import options as o
from p2ptrain.errors import UsageError
from p2ptrain.lean import spare_torch
from p2ptrain.output import can_show
from p2ptrain.text import check_name

LABEL = o.parser(check_name)
HALF_BLOCKS = "\u2580\u2584\u2588"


def invite(
    run_dir: o.RunDir,
    label: Annotated[
        str,
        o.option("--label", "NAME", "Name shown in `members` for a peer that comes by this invite.", parser=LABEL),
    ] = "",
    days: Annotated[
        float | None, o.option("--days", "DAYS", "Length of the membership in days.", "90", min=0.01, max=36_500)
    ] = None,
    peer: Annotated[
        str | None, o.option("--peer", "ID", "Id of the only peer that can use the invite.", "any peer")
    ] = None,
    qr: Annotated[bool, o.option("--qr", None, "Show the link as a QR code, too.")] = False,
    list_all: Annotated[bool, o.option("--list", None, "List the invites that were made in this folder.")] = False,
    revoke: Annotated[
        str | None,
        o.option("--revoke", "LABEL", "Close an invite: peers that came by it stay, but no others can use it."),
    ] = None,
    renew: Annotated[
        str | None, o.option("--renew", "PEER", "Extend a membership; give the peer's id, its ending, or the label.")
    ] = None,
    owner_key: o.OwnerKey = None,
    json_lines: o.Json = False,
) -> None:
    """Make an invite, a link with which others join a run.

    Any peer can invite into a public run. In a private run only an owner can, and can also list, close and renew
    invites.
    """
    tasks = {"--list": list_all, "--revoke": revoke is not None, "--renew": renew is not None}
    asked = [option for option, given in tasks.items() if given]
    meant_for_a_new_link = {
        "--label": bool(label),
        "--peer": peer is not None,
        "--qr": qr,
        "--days": days is not None and renew is None,
        "--json": json_lines and not list_all,
    }
    idle = [option for option, given in meant_for_a_new_link.items() if given]
    if len(asked) > 1:
        what = f"{' and '.join(asked)} contradict each other"
        raise UsageError(what, "each is a task of its own", "give one of --list, --revoke and --renew")
    if asked and idle:
        raise UsageError(f"{idle[0]} means nothing with {asked[0]}", "", f"leave out {idle[0]}")
    if qr and json_lines:
        what = "--qr and --json contradict each other"
        raise UsageError(what, "a QR code is for people", "give --qr or --json, not both")
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

            segno.make(link, error="l").terminal(compact=can_show(HALF_BLOCKS))
