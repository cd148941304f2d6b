"""The key that a peer uses: the one that is given, the one that an invite or a run folder is for, or the next free one
of this machine."""

from __future__ import annotations

from pathlib import Path

from p2ptrain.errors import IdentityError, InviteError
from p2ptrain.state.contact import Contact
from p2ptrain.swarm import Identity, Invite, NodeConfig
from p2ptrain.swarm.addresses import by_peer


def open_identity(home: Path, path: Path | None, config: NodeConfig) -> Identity:
    """Open the identity at `path`. Without a path, open the first one in `home` that no process uses and that is not
    the key of a peer in `config.bootstrap`; if there is none, make a new one.

    Raises:
        IdentityError: the identity at `path` is in use or not a key, or too many are in use.
    """
    if path:
        return Identity.open(path)
    return Identity.open_next_free(home / "identities", avoid=by_peer(config.bootstrap))


def invited_identity(home: Path, invite: Invite) -> Path | None:
    """The key file in `home` of the peer that an invite is for; None if the invite is for everybody.

    Raises:
        InviteError: the invite is for a peer whose key is not in `home`.
    """
    peer = invite.ticket.invitation.peer if invite.ticket else ""
    try:
        return Identity.find(home / "identities", peer) if peer else None
    except IdentityError as error:
        next_step = "give that peer's key with --identity"
        raise InviteError("this invite is for another peer", error.what, next_step) from None


def open_own_key(given: Path | None, contact: Contact, home: Path, ending: str) -> Identity:
    """Open the identity of the peer that a run folder belongs to.

    Args:
        given: key file that the volunteer names; None to find it.
        contact: what the folder knows of its peer.
        home: where to look for the key.
        ending: end of the peer's id, which is the folder's name.

    Raises:
        IdentityError: the key is in use or can't be found, or `given` is the key of another peer.
    """
    if given is not None and not given.is_file():
        raise IdentityError(f"there is no key file {given}", "", "leave out --identity: the folder knows its own")
    noted = Path(contact.identity)  # it may have been moved, perhaps to `home`
    path = given or (noted if noted.is_file() else Identity.find(home / "identities", contact.peer or ending))
    key = Identity.open(path)
    if not key.peer_id.endswith(contact.peer or ending):
        key.close()
        why = f"its id is {contact.peer or '…' + ending}"
        next_step = "give that peer's key file with --identity, or join the run with an invite as a new peer"
        raise IdentityError(f"{path} is not the key of the peer whose folder this is", why, next_step)
    return key
