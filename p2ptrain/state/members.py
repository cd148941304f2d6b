"""What a peer of a private run keeps about the members: the file `members` in the run folder.

It holds papers, the secrets of the gossip, this peer's own certificate, and a number that grows at each start. Only the
folder's user can read it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field

from p2ptrain.errors import AccessError, MalformedError
from p2ptrain.run import Genesis, PeerId, Record, RunSpec
from p2ptrain.run.access import MOST_CERTIFICATES, MOST_ORDERS, Access, TooManyError, read_paper
from p2ptrain.run.certificate import Certificate, Key
from p2ptrain.run.record import Count
from p2ptrain.state.files import write_whole
from p2ptrain.swarm import Identity, Invite, Swarm
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.private_door import Pass, PrivateDoor

FILE = "members"


class Members(Record):
    """The file."""

    kind: ClassVar[str] = "members/1"
    max_bytes: ClassVar[int] = 64 * 1024 * 1024

    boot: Count
    """Number of this peer's last start; see `next_boot`."""
    own: Annotated[bytes, Field(max_length=Certificate.max_bytes)]
    """This peer's own certificate; empty for an owner and the founder."""
    papers: Annotated[tuple[bytes, ...], Field(max_length=MOST_CERTIFICATES + MOST_ORDERS)]
    secrets: Annotated[tuple[Key, ...], Field(max_length=MOST_ORDERS + 1)]


class MembersFile:
    """The members' file of one run folder. Any thread may save.

    Raises:
        AccessError: the file is damaged or missing, and with it this peer's certificate.
    """

    def __init__(self, folder: Path, genesis: Genesis, spec: RunSpec) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()
        try:
            self._kept = Members.decode(self._path.read_bytes())
            papers = map(read_paper, self._kept.papers)
            self.access = Access.restore(genesis, spec, papers, self._kept.secrets)
            self.own = Certificate.decode(self._kept.own) if self._kept.own else None
        except (OSError, MalformedError) as error:
            next_step = "join the run again with an invite: that mends it"
            raise AccessError(f"{self._path} can't be read", str(error), next_step) from None

    @classmethod
    def begin(cls, folder: Path, access: Access, own: Certificate | None) -> Self:
        """Write the file of a founder or of a peer that joins. It takes over what an earlier file knows."""
        boot = 0
        with contextlib.suppress(AccessError):
            before = cls(folder, access.genesis, access.spec)
            boot = before._kept.boot
            for paper in before.access.papers():
                with contextlib.suppress(TooManyError):
                    access.take(paper)
            for secret in before.access.secrets:
                access.take_secret(secret)
        papers = tuple(paper.encoded for paper in access.papers())
        kept = Members(boot=boot, own=own.encoded if own else b"", papers=papers, secrets=access.secrets)
        write_whole(folder / FILE, kept.encoded)
        return cls(folder, access.genesis, access.spec)

    def door(self, me: PeerId) -> PrivateDoor:
        """The door of a peer that has been in the run before."""
        return PrivateDoor(me, Pass(self.access.run, self.own), self.access)

    def next_boot(self) -> int:
        """The number of this start. It is larger than those of all starts before, also after an older copy of the
        folder was put back or the clock was set back.

        Raises:
            StorageError: the file can't be written.
        """
        self._change(boot=max(self._kept.boot + 1, int(time.time())))
        return self._kept.boot

    def save(self, papers: tuple[bytes, ...], secrets: tuple[bytes, ...]) -> None:
        """Replace the papers and secrets in the file; raises StorageError if it can't be written."""
        self._change(papers=papers, secrets=secrets)

    def _change(self, **fields: object) -> None:
        with self._lock:
            kept = Members.model_validate(self._kept.model_dump() | fields)
            if kept != self._kept:
                write_whole(self._path, kept.encoded)
                self._kept = kept


def door_for(invite: Invite, key: Identity, passing: bool = False) -> Door:
    """The door of a peer that comes by an invite. `passing`: it comes only to look, or to give an order."""
    if invite.ticket is None or invite.run is None:
        return Door()
    return PrivateDoor(key.peer_id, Pass(invite.run, invite.ticket.certificate(key.peer_id), passing))


def remember_members(swarm: Swarm, door: PrivateDoor, file: MembersFile) -> None:
    """Let the door of a running swarm keep what it learns in this file."""
    boot = file.next_boot()

    async def begin() -> None:
        door.papers.remember_with(boot, file.save)

    swarm.run(begin())
