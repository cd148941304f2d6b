"""How a peer gets back to its run: its identity, its port and where others were reachable. A file in the run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2ptrain.state.files import write_whole

FILE = "contact.json"
REMEMBERED_ADDRESSES = 32

log = logging.getLogger(__name__)


class Contact(BaseModel):
    """Kept apart from the ledger: a peer whose ledger is damaged finds the others, and has them replace it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    peer: str = ""
    """This peer's id."""
    identity: str = ""
    """Path of its key file."""
    port: Annotated[int, Field(ge=0, lt=2**16)] = 0
    """That this peer listened at; 0 if none is known."""
    addresses: Annotated[tuple[str, ...], Field(max_length=REMEMBERED_ADDRESSES)] = ()
    """Where others could reach this peer, the likeliest first."""
    peers: Annotated[tuple[str, ...], Field(max_length=REMEMBERED_ADDRESSES)] = ()
    """Where others were reachable, the latest first."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What the folder knows; nothing if the file is missing or damaged."""
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValidationError) as error:
            log.warning(
                "%s can't be read, so others' addresses are not known: %s", folder / FILE, str(error).splitlines()[0]
            )
            return cls()

    def write(self, folder: Path) -> None:
        write_whole(folder / FILE, self.model_dump_json(indent=2).encode() + b"\n")

    def met(self, addresses: Iterable[str]) -> Self:
        """With these addresses first; those of before come last."""
        peers = tuple(dict.fromkeys((*addresses, *self.peers)))[:REMEMBERED_ADDRESSES]
        return self.model_copy(update={"peers": peers})
