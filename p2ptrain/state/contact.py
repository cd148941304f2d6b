"""How a peer finds its run again: its key, port and others' addresses. The file `contact.json` of a run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, ValidationError

from p2ptrain.state.files import write_whole
from p2ptrain.text import first_line

FILE = "contact.json"
REMEMBERED_ADDRESSES = 32

log = logging.getLogger(__name__)


class Contact(BaseModel, frozen=True, strict=True, extra="forbid"):
    """The file. It is not in the ledger: a peer whose ledger is damaged still finds the others and fetches it anew."""

    peer: str = ""
    """This peer's id."""
    identity: str = ""
    """Path of its key file."""
    port: Annotated[int, Field(ge=0, lt=2**16)] = 0
    """The TCP port at which this peer listened; 0 if it is not known."""
    addresses: Annotated[tuple[str, ...], Field(max_length=REMEMBERED_ADDRESSES)] = ()
    """Addresses at which others could reach this peer, the likeliest first."""
    peers: Annotated[tuple[str, ...], Field(max_length=REMEMBERED_ADDRESSES)] = ()
    """Addresses at which other peers were reachable, the latest first."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file of a run folder. A file that is missing or damaged counts as empty."""
        path = folder / FILE
        try:
            return cls.model_validate_json(path.read_bytes()) if path.exists() else cls()
        except (OSError, ValidationError) as error:
            log.warning("%s can't be read, so others' addresses are not known: %s", path, first_line(error))
            return cls()

    def write(self, folder: Path) -> None:
        """Write the file; raises StorageError if the disk is full or not writable."""
        write_whole(folder / FILE, self.model_dump_json(indent=2).encode() + b"\n")

    def met(self, addresses: Iterable[str]) -> Self:
        """A copy in which these addresses of other peers come first, before those known so far."""
        peers = tuple(dict.fromkeys((*addresses, *self.peers)))[:REMEMBERED_ADDRESSES]
        return self.model_copy(update={"peers": peers})
