"""How an owner invites into a private run, and the list of the invites made here: `invites.json` in the run folder.

The private key of an invite is only in its link. So the list lets nobody in.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Self

from filelock import FileLock
from pydantic import BaseModel, Field, ValidationError

from p2ptrain.errors import AccessError, StorageError
from p2ptrain.run import PeerId, SigningKey
from p2ptrain.run.access import owners_of
from p2ptrain.run.certificate import make_invitation
from p2ptrain.state.files import write_whole
from p2ptrain.state.folder import RunFolder
from p2ptrain.swarm import Invite
from p2ptrain.swarm.invite import Ticket
from p2ptrain.text import first_line

FILE = "invites.json"
MEMBER_DAYS = 90.0
"""Days that a membership lasts, unless the owner says otherwise."""
DAY = 86_400
MAX_DAYS = 36_500.0


class MadeInvite(BaseModel, frozen=True, strict=True, extra="forbid"):
    """An invite that was made here."""

    key: str
    """The public half of its key in hexadecimal. Certificates and orders name the invite by it."""
    label: str
    peer: str
    made: int
    expires: int
    """Seconds since 1970, as `made`."""


class MadeInvites(BaseModel, frozen=True, strict=True, extra="forbid"):
    """The file."""

    invites: Annotated[tuple[MadeInvite, ...], Field(strict=False)] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file of a run folder; raises StorageError if it is damaged."""
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValidationError) as error:
            next_step = "move the file away: the list begins anew, and the invites stay valid"
            raise StorageError(f"{folder / FILE} can't be read", first_line(error), next_step) from None


def invite_member(
    folder: RunFolder, owner: SigningKey, addresses: tuple[str, ...], label: str, days: float, peer: PeerId | None
) -> Invite:
    """Make an invite for a private run, and add it to the list. `Run.invite` says what the arguments mean.

    Raises:
        AccessError: the key is not an owner's.
        StorageError: the list can't be read or written.
    """
    check_owner(folder, owner)
    now = int(time.time())
    expires = now + int(min(days, MAX_DAYS) * DAY)
    invitation, seed = make_invitation(owner, folder.run, label, expires, peer or "")
    made = MadeInvite(key=invitation.bearer.hex(), label=label, peer=peer or "", made=now, expires=expires)
    with FileLock(folder.path / f"{FILE}.lock"):  # a peer that trains and a command may both be inviting
        known = MadeInvites.read(folder.path).invites
        write_whole(folder.path / FILE, MadeInvites(invites=(*known, made)).model_dump_json(indent=2).encode() + b"\n")
    return Invite(folder.run, addresses, Ticket(invitation, seed))


def check_owner(folder: RunFolder, key: SigningKey) -> None:
    """Raises AccessError if the key is not an owner's."""
    owners = owners_of(folder.genesis, folder.spec)
    if key.peer_id not in owners:
        why = f"{key.peer_id} is not an owner; owners: {', '.join(sorted(owners))}"
        raise AccessError("only an owner of the run can do that", why, "give an owner's key file with --owner-key")
