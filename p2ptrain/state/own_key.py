"""Which key a peer takes part with: the one that is given, the one that an invite or a folder is for, or the next free
one of this machine."""

from __future__ import annotations

from pathlib import Path

from p2ptrain.errors import IdentityError, InviteError
from p2ptrain.state.contact import Contact
from p2ptrain.swarm import Identity, Invite, NodeConfig
from p2ptrain.swarm.addresses import by_peer


def open_identity(home: Path, path: Path | None, config: NodeConfig) -> Identity:
    """The identity at `path`, or the next one in `home` that no process on this machine uses, and that is none of
    the peers to be reached: those can't be reached from themselves."""
    if path:
        return Identity.open(path)
    return Identity.open_next_free(home / "identities", avoid=by_peer(config.bootstrap))


def invited_identity(home: Path, invite: Invite) -> Path | None:
    """The key file here of the one peer that an invite is for; None if it is for anyone."""
    peer = invite.ticket.invitation.peer if invite.ticket else ""
    try:
        return Identity.find(home / "identities", peer) if peer else None
    except IdentityError as error:
        raise InviteError(
            "this invite is for another peer", error.what, "give that peer's key with --identity"
        ) from None


def open_own_key(given: Path | None, contact: Contact, home: Path, ending: str) -> Identity:
    """The identity of a folder's peer, whose id ends like this if nothing else is known of it.

    Raises:
        IdentityError: it is in use, not to be found, or not the one that was given.
    """
    if given is not None and not given.is_file():
        raise IdentityError(f"there is no key file {given}", "", "leave out --identity: the folder knows its own")
    noted = Path(contact.identity) if contact.identity else None
    if noted is not None and not noted.is_file():
        noted = None  # moved, perhaps to where keys are looked for
    path = given or noted or Identity.find(home / "identities", contact.peer or ending)
    key = Identity.open(path)
    if not key.peer_id.endswith(contact.peer or ending):
        key.close()
        raise IdentityError(
            f"{path} is not the key of the peer whose folder this is",
            f"its id is {contact.peer or '…' + ending}",
            "give that peer's key file with --identity, or join the run with an invite as a new one",
        )
    return key
