"""`p2ptrain invite`: make, list and close invites into a run, and renew memberships."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from p2ptrain.commands.listing import lines_of, print_list, table_of
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
from p2ptrain.run.access import REVOKED, Access, day
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
    """Make a link to the run of a folder. It needs no network.

    Args:
        label: a name for the invite; like `days` and `peer`, only in a private run.
        days: how long the membership lasts; None: 90 days.
        peer: the id of the only peer that can use the link; None: any peer.
        key_file: an owner's key, here and below; None: the key of the folder's own peer.

    Raises:
        StorageError: `run_dir` is no run folder.
        NetworkError: the folder knows no address that the link could lead to.
        IdentityError, AccessError: the run is private, and the key can't be read or is no owner's.
        UsageError: `peer` is no peer id; or the run is public, and `label`, `days` or `peer` is given.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        addresses = _addresses(folder.contact, peers_within(folder))
        if folder.spec.is_private:
            only = _peer_id(peer) if peer else None
            lasts = MEMBER_DAYS if days is None else days
            return invite_member(folder, owner_key(folder, key_file), addresses, label, lasts, only)
        if label or peer or days is not None:
            why, step = "everyone can use its invites, and they never end", "leave out --label, --days and --peer"
            raise UsageError("--label, --days and --peer mean nothing for a public run", why, step)
        return Invite(folder.run, addresses)


def _addresses(contact: Contact, peers: Sequence[str]) -> tuple[str, ...]:
    """This peer's own addresses and one of each other peer: the link works as long as one of the peers is there."""
    own = contact.addresses[:OWN_ADDRESSES]
    others: dict[PeerId, str] = {}
    for address in likeliest_first(peers):
        others.setdefault(peer_of(address), address)
    others.pop(PeerId(contact.peer), None)
    found = (*own, *others.values())[:MAX_INVITED]
    if not found:
        what = "this folder knows no address that an invite could lead to"
        raise NetworkError(what, "its own peer has not been in the swarm yet", "start the peer: p2ptrain peer RUN_DIR")
    return found


def _peer_id(text: str) -> PeerId:
    try:
        return check_peer_id(text)
    except ValueError as error:
        step = "give a peer id; `p2ptrain keygen FILE` prints one"
        raise UsageError(f"{text!r} can't be invited", str(error), step) from None


def close_invite(run_dir: Path, label: str, key_file: Path | None) -> str:
    """Close an invite, and say in one line what was done. Peers that have used it stay members, and no other peer can
    use it.

    Args:
        label: the label of the invite, or the first characters of its key.

    Raises:
        StorageError: no invite or several invites in the folder's list match `label`.
        IdentityError, AccessError: the key can't be read or is no owner's.
        NetworkError: no peer of the run took the order.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        key, made = owner_key(folder, key_file), MadeInvites.read(folder.path).invites
        found = [invite for invite in made if label and (invite.label == label or invite.key.startswith(label))]
        if len(found) != 1:
            known = ", ".join(f"{invite.key[:8]} {invite.label}".strip() for invite in found or made)
            raise StorageError(
                f"found {'several invites' if found else 'no invite'} for {label!r} in this folder",
                f"there are: {known or 'none'}",
                "give the first characters of the invite's key: p2ptrain invite RUN_DIR --list shows it",
            )
        with visit(folder, key) as swarm:
            _, told = shut_out(swarm, key, (), bytes.fromhex(found[0].key))
        return f"the invite {label} is closed; {told_words(told)}"


def renew(run_dir: Path, peer: str, days: float, key_file: Path | None) -> str:
    """Make a membership last `days` from now on, and say in one line what was done. The member does not have to be
    online.

    Args:
        peer: a peer id, the ending of one, or the label of the member's invite.

    Raises:
        StorageError: no member or several members match `peer`.
        IdentityError, AccessError: the key can't be read or is no owner's.
        AccessError: the peer was revoked, or it is an owner or the founder.
        NetworkError: no peer of the run took the new certificate.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        key, access = owner_key(folder, key_file), members_of(folder)
        member = find_member(access, peer)
        if member.role != "member":
            why = f"its role is {member.role}, and only the membership of a member ends"
            raise AccessError(f"{short_peer(member.peer)} needs no renewal", why, "leave it as it is")
        if member.refusal.startswith(REVOKED):
            what = f"{short_peer(member.peer)} was revoked and can't be renewed"
            raise AccessError(what, member.refusal, "invite it under another id: p2ptrain invite RUN_DIR")
        until = int(time.time() + min(days, MAX_DAYS) * DAY)
        certificate = certify(key, folder.run, member.label, until, member.peer)
        with visit(folder, key) as swarm:
            door = swarm.door
            assert isinstance(door, PrivateDoor)
            told = tell_everyone(swarm, folder.run, lambda other: door.papers.give(other, certificate))
        return f"{short_peer(member.peer)} is a member until {day(until)}; {told_words(told)}"


def show_invites(run_dir: Path, json_lines: bool) -> None:
    """Print the invites that were made in a folder: whether each is open, and which peers used it. Raises AccessError
    if the run is public, and StorageError if `run_dir` is no run folder or its list of invites is damaged."""
    with RunFolder.open(run_dir, lock=False) as folder:
        access = members_of(folder)
        made = MadeInvites.read(folder.path).invites
    facts, rows = [], []
    for invite in made:
        state, peers = _fate(invite, access)
        facts.append({**invite.model_dump(), "state": state, "peers": peers})
        meant = short_peer(invite.peer) if invite.peer else "anyone"
        times = (day(invite.made), day(invite.expires))
        rows.append((invite.key[:8], invite.label, meant, *times, state, " ".join(map(short_peer, peers))))
    columns = ("key", "label", "for", "made", "until", "state", "members")
    table = table_of(columns, rows) if rows else None
    print_list(json_lines, facts, table, lines_of(columns, rows), "no invites were made here")


def _fate(invite: MadeInvite, access: Access) -> tuple[str, list[PeerId]]:
    key = bytes.fromhex(invite.key)
    lasts = "open" if time.time() < invite.expires else "ended"
    return "closed" if access.is_closed(key) else lasts, access.came_by(key)
