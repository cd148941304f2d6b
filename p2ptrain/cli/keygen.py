"""p2ptrain keygen FILE"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def keygen(file: Annotated[Path, typer.Argument(help="Where to write the key; it must not exist.")]) -> None:
    """Make a key, of an owner who need not be on a machine that trains or of a peer, and print its id."""
    from p2ptrain.errors import IdentityError
    from p2ptrain.lean import spare_torch

    spare_torch()  # before anything imports hivemind
    from p2ptrain.swarm import Identity

    if file.exists():
        raise IdentityError(f"{file} exists", "a key is never overwritten", "choose another name")
    identity = Identity.open(file)
    identity.close()
    print(identity.peer_id)
