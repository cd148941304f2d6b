"""What several commands do beside a running peer: read its run folder, and be in its swarm for a moment."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from p2ptrain.errors import AccessError, IdentityError, NetworkError, StorageError
from p2ptrain.run import Digest, PeerId, SigningKey
from p2ptrain.run.access import Access, Member
from p2ptrain.run.certificate import certify
from p2ptrain.state import RunFolder
from p2ptrain.state.contact import FILE as CONTACT_FILE
from p2ptrain.state.inviting import check_owner
from p2ptrain.state.members import MembersFile
from p2ptrain.state.passing import passing
from p2ptrain.swarm import Invite, Presence, RpcError, Swarm
from p2ptrain.swarm.addresses import peer_of
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.identity import read_key
from p2ptrain.swarm.patience import ask_all
from p2ptrain.swarm.private_door import Pass, PrivateDoor
from p2ptrain.units import counted

VISIT_SECONDS = 3600
CALL_SECONDS = 60.0
TELL_SECONDS = 10.0
"""For all peers together. A slower peer hears of it from the others."""

Tell = Callable[[PeerId], Awaitable[None]]


def owner_key(folder: RunFolder, given: Path | None) -> SigningKey:
    """The key of an owner of the run.

    Args:
        given: the key file; None: that of the folder's own peer.

    Raises:
        IdentityError: the key can't be read, or none is given and the folder does not name the file of its own.
        AccessError: the key is no owner's.
    """
    known = folder.contact.identity
    if given is None and not known:
        what, why = "this folder does not know the key of its peer", f"{folder.path / CONTACT_FILE} names no key file"
        raise IdentityError(what, why, "give an owner's key file with --owner-key")
    try:
        key = read_key(given or Path(known))
    except IdentityError as error:
        raise IdentityError(error.what, error.why, "give an owner's key file with --owner-key") from None
    check_owner(folder, key)
    return key


def members_of(folder: RunFolder) -> Access:
    """The members of a private run, as its run folder lists them. Raises AccessError if the run is public, or the file
    is damaged."""
    if not folder.spec.is_private:
        step = "see which peers take part now: p2ptrain status INVITE"
        raise AccessError("a public run has no list of members", "everyone who has an invite can take part", step)
    return MembersFile(folder.path, folder.genesis, folder.spec).access


def find_member(access: Access, text: str) -> Member:
    """The member that `text` stands for: a peer id, the ending of one, or the label of the member's invite. Raises
    StorageError if no member or several members match."""
    members = access.members(time.time())
    found = [each for each in members if text and (each.peer.endswith(text) or each.label == text)]
    if len(found) != 1:
        raise StorageError(
            f"found {'several members' if found else 'no member'} of the run for {text!r}",
            "there are: " + ", ".join(f"{each.peer[-6:]} {each.label}".strip() for each in found or members),
            "give a whole peer id: p2ptrain members RUN_DIR --json shows it",
        )
    return found[0]


def peers_within(folder: RunFolder) -> tuple[str, ...]:
    """The addresses of other peers that the folder knows, without those of peers that are out of the run."""
    known = folder.contact.peers
    if not folder.spec.is_private:
        return known
    access, now = members_of(folder), time.time()
    return tuple(address for address in known if not access.is_out(peer_of(address), now))


def visit(folder: RunFolder, owner: SigningKey) -> contextlib.AbstractContextManager[Swarm]:
    """Be in the run's swarm for a moment, see `passing`; `owner` is the key that lets the visitor into a private run.
    Raises NetworkError if the folder knows no address, or no peer answers."""
    contact = folder.contact
    here = (f"/ip4/127.0.0.1/tcp/{contact.port}/p2p/{contact.peer}",) if contact.port and contact.peer else ()
    known = tuple(dict.fromkeys((*here, *contact.addresses, *peers_within(folder))))
    if not known:
        why = "its own peer has not been in the swarm yet"
        raise NetworkError("this folder knows no peer of the run", why, f"start the peer: p2ptrain peer {folder.path}")
    return passing(Invite(None, known), door_of=lambda identity: _door(folder, owner, identity.peer_id))


def _door(folder: RunFolder, owner: SigningKey, me: PeerId) -> Door:
    if not folder.spec.is_private:
        return Door()
    certificate = certify(owner, folder.run, "an owner's visit", int(time.time()) + VISIT_SECONDS, me)
    return PrivateDoor(me, Pass(folder.run, certificate, passing=True), members_of(folder))


def tell_everyone(swarm: Swarm, run: Digest, tell: Tell, but: Collection[PeerId] = ()) -> int:
    """Call `tell` for each peer of the run that is online and not in `but`; returns how many took it in time. Raises
    NetworkError if no peer took it."""

    async def tell_one(peer: PeerId, presence: Presence) -> None:
        await swarm.node.connect(peer, presence.addresses)
        await tell(peer)

    async def tell_all() -> list[BaseException | None]:
        peers = await swarm.directory.peers(run)
        questions = {peer: tell_one(peer, seen) for peer, seen in peers.items() if peer not in but}
        return list((await ask_all(questions, TELL_SECONDS)).values())

    answers = swarm.run(tell_all(), CALL_SECONDS)
    if None not in answers:
        why = "; ".join(map(str, answers[:3])) or "no peer is online"
        raise NetworkError("no peer of the run has taken the order", why, "start a peer of the run and try again")
    for answer in answers:
        if answer is not None and not isinstance(answer, NetworkError | RpcError | TimeoutError):
            raise answer
    return answers.count(None)


def told_words(count: int) -> str:
    """The end of a line that says what was done."""
    return f"{counted(count, 'peer')} {'was told and passes' if count == 1 else 'were told and pass'} it on"
