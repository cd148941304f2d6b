"""How an owner invites into a private run, and the list of the invites made here: `invites.json` in the run folder.

An invite's private key is in the link alone: what is listed can't let anybody in.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Self

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2ptrain.errors import AccessError, StorageError
from p2ptrain.run import PeerId, SigningKey
from p2ptrain.run.access import owners_of
from p2ptrain.run.certificate import make_invitation
from p2ptrain.state.files import write_whole
from p2ptrain.state.folder import RunFolder
from p2ptrain.swarm import Invite
from p2ptrain.swarm.invite import Ticket

FILE = "invites.json"
MEMBER_DAYS = 90.0
"""How long a membership lasts, unless the owner says otherwise."""
DAY = 86_400
MAX_DAYS = 36_500.0


class MadeInvite(BaseModel):
    """One that was made here."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    key: str
    """Public half of its key, in hexadecimal: its name in certificates and orders."""
    label: str
    peer: str
    made: int
    """Seconds since 1970, as below."""
    expires: int


class MadeInvites(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    invites: Annotated[tuple[MadeInvite, ...], Field(strict=False)] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises StorageError if the file is damaged."""
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValidationError) as error:
            raise StorageError(
                f"{folder / FILE} can't be read",
                str(error).splitlines()[0],
                "move it away: the list begins anew, and the invites hold all the same",
            ) from None


def invite_member(
    folder: RunFolder, owner: SigningKey, addresses: tuple[str, ...], label: str, days: float, peer: PeerId | None
) -> Invite:
    """A link for a private run, and a line in the list.

    Raises:
        AccessError: the key is no owner's.
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
    """Raises AccessError if the key is no owner's."""
    owners = owners_of(folder.genesis, folder.spec)
    if key.peer_id not in owners:
        raise AccessError(
            "only an owner of the run can do that",
            f"{key.peer_id} is none; owners: {', '.join(sorted(owners))}",
            "give an owner's key file with --owner-key",
        )
