"""`p2ptrain invite` and `p2ptrain members`: who may come, and who is in."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from p2ptrain.commands.orders import shut_out
from p2ptrain.commands.visiting import (
    find_member,
    members_of,
    owner_key,
    peers_within,
    tell_everyone,
    told_words,
    visit,
)
from p2ptrain.errors import AccessError, NetworkError, StorageError, UsageError
from p2ptrain.run import PeerId, short_peer
from p2ptrain.run.access import REVOKED, Access, Member, day
from p2ptrain.run.certificate import certify
from p2ptrain.run.keys import check_peer_id
from p2ptrain.state import RunFolder
from p2ptrain.state.contact import Contact
from p2ptrain.state.inviting import DAY, MAX_DAYS, MEMBER_DAYS, MadeInvite, MadeInvites, invite_member
from p2ptrain.swarm import Invite
from p2ptrain.swarm.addresses import likeliest_first, peer_of
from p2ptrain.swarm.invite import MAX_INVITED
from p2ptrain.swarm.private_door import PrivateDoor

OWN_ADDRESSES = 2


def make_invite(run_dir: Path, label: str, days: float | None, peer: str | None, key_file: Path | None) -> Invite:
    """A link to the run of a folder; needs no network.

    Args:
        days: how long the membership lasts; None: as long as usual.

    Raises:
        NetworkError: the folder does not know where anybody could be reached.
        AccessError: the run is private and the key no owner's.
        UsageError: `peer` is no peer id; or the run is public, and its invites have neither label nor end.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        addresses = _addresses(folder.contact, peers_within(folder))
        if folder.spec.is_private:
            only = _peer_id(peer) if peer else None
            lasts = MEMBER_DAYS if days is None else days
            return invite_member(folder, owner_key(folder, key_file), addresses, label, lasts, only)
        if label or peer or days is not None:
            raise UsageError(
                "a public run takes in anyone, for as long as it goes on",
                "its invites have no label and no end, and are for nobody in particular",
                "leave out --label, --days and --peer",
            )
        return Invite(folder.run, addresses)


def _addresses(contact: Contact, peers: Sequence[str]) -> tuple[str, ...]:
    """This peer's own and others', so that the link holds for longer than one of them is there."""
    own = contact.addresses[:OWN_ADDRESSES]
    others: dict[PeerId, str] = {}
    for address in likeliest_first(peers):
        others.setdefault(peer_of(address), address)
    others.pop(PeerId(contact.peer), None)
    found = (*own, *others.values())[:MAX_INVITED]
    if not found:
        raise NetworkError(
            "this folder knows no address that an invite could lead to", "", "start its peer once, or join the run"
        )
    return found


def _peer_id(text: str) -> PeerId:
    try:
        return check_peer_id(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} can't be invited", str(error), "give a peer id; `p2ptrain keygen FILE` prints one"
        ) from None


def close_invite(run_dir: Path, label: str, key_file: Path | None) -> str:
    """Close an invite: who has come by it stays, nobody else comes.

    Args:
        label: the invite's, or the beginning of its key.

    Raises:
        StorageError: there is no such invite in the list, or there are several.
        AccessError: the key is no owner's.
        NetworkError: no peer of the run took the order.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        key, made = owner_key(folder, key_file), MadeInvites.read(folder.path).invites
        found = [invite for invite in made if label and (invite.label == label or invite.key.startswith(label))]
        if len(found) != 1:
            known = ", ".join(f"{invite.key[:8]} {invite.label}".strip() for invite in found or made)
            raise StorageError(
                f"{label!r} names {'several' if found else 'none'} of the invites that were made here",
                f"there are: {known or 'none'}",
                "give the beginning of its key",
            )
        with visit(folder, key) as swarm:
            _, told = shut_out(swarm, key, (), bytes.fromhex(found[0].key))
        return f"the invite {label} is closed; {told_words(told)}"


def renew(run_dir: Path, peer: str, days: float, key_file: Path | None) -> str:
    """Give a member more time, wherever it is; returns one line that says so.

    Raises:
        StorageError: no such member.
        AccessError: the key is no owner's, or the member was revoked.
        NetworkError: no peer of the run took it.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        key, access = owner_key(folder, key_file), members_of(folder)
        member = find_member(access, peer)
        if member.role != "member":
            raise AccessError(f"{short_peer(member.peer)} needs no renewal", f"it is {member.role} of the run")
        if member.refusal.startswith(REVOKED):
            raise AccessError(f"{short_peer(member.peer)} was revoked", member.refusal, "invite it under another id")
        until = int(time.time() + min(days, MAX_DAYS) * DAY)
        certificate = certify(key, folder.run, member.label, until, member.peer)
        with visit(folder, key) as swarm:
            door = swarm.door
            assert isinstance(door, PrivateDoor)
            told = tell_everyone(swarm, folder.run, lambda other: door.papers.give(other, certificate))
        return f"{short_peer(member.peer)} is a member until {day(until)}; {told_words(told)}"


def show_invites(run_dir: Path, json_lines: bool) -> None:
    """The invites that were made in a folder, and what became of them."""
    with RunFolder.open(run_dir, lock=False) as folder:
        access = members_of(folder)
        made = MadeInvites.read(folder.path).invites
    rows = [(invite, *_fate(invite, access)) for invite in made]
    if json_lines:
        for invite, state, peers in rows:
            print(json.dumps({**invite.model_dump(), "state": state, "peers": peers}))
    else:
        cells = [
            (
                invite.key[:8],
                invite.label,
                short_peer(invite.peer) if invite.peer else "anyone",
                day(invite.made),
                day(invite.expires),
                state,
                " ".join(map(short_peer, peers)),
            )
            for invite, state, peers in rows
        ]
        _show(("key", "label", "for", "made", "until", "state", "members"), cells, "no invites were made here")


def _fate(invite: MadeInvite, access: Access) -> tuple[str, list[PeerId]]:
    key = bytes.fromhex(invite.key)
    lasts = "open" if time.time() < invite.expires else "ended"
    return "closed" if access.is_closed(key) else lasts, access.came_by(key)


def show_members(run_dir: Path, json_lines: bool) -> None:
    """Who is or was in a private run, as far as this peer knows; needs no network.

    Raises:
        AccessError: the run is public.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        members = members_of(folder).members(time.time())
    if json_lines:
        for member in members:
            print(json.dumps(asdict(member)))
    else:
        _show(("peer", "role", "invite", "invited by", "until", "state"), map(_cells, members), "no members")


def _cells(member: Member) -> tuple[str, ...]:
    return (
        short_peer(member.peer),
        member.role,
        member.label,
        short_peer(member.invited_by),
        "–" if member.expires is None else day(member.expires),
        member.refusal or "in",
    )


def _show(columns: Sequence[str], rows: Iterable[Sequence[str]], nothing: str) -> None:
    rows = list(rows)
    if not rows:
        print(nothing)
    elif sys.stdout.isatty():
        table = Table(header_style="bold")
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
    else:
        for row in rows:
            print("  ".join(f"{column}={cell or '–'}" for column, cell in zip(columns, row, strict=True)))
