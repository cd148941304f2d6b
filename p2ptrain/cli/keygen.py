"""p2ptrain keygen FILE"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from p2ptrain.cli import options as o
from p2ptrain.lean import spare_torch


def keygen(file: Annotated[Path, o.argument("FILE", "New file for the key; it must not exist yet.")]) -> None:
    """Make a key file and print its peer id.

    It can be the key of a peer, or of an owner who keeps it away from the machines that train.
    """
    from p2ptrain.errors import IdentityError

    spare_torch()  # before anything imports hivemind
    from p2ptrain.swarm import Identity

    if file.exists():
        raise IdentityError(f"{file} exists", "a key is never overwritten", "choose another name")
    identity = Identity.open(file)
    identity.close()
    print(identity.peer_id)
