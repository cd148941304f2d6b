"""A short visit to a swarm, to look or to give an order. The visitor's identity is deleted afterwards, and other peers
do not remember it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from p2ptrain.errors import StorageError
from p2ptrain.state.members import door_for
from p2ptrain.swarm import Identity, Invite, NodeConfig, Swarm
from p2ptrain.swarm.config import NOWHERE
from p2ptrain.swarm.door import Door
from p2ptrain.text import reason_of


@contextlib.contextmanager
def passing(
    invite: Invite,
    listen: tuple[str, ...] = (NOWHERE,),
    announce: tuple[str, ...] = (),
    door_of: Callable[[Identity], Door] | None = None,
) -> Iterator[Swarm]:
    """Be in the swarm of an invite for a moment. Use it in a `with` block, which gives the swarm.

    Args:
        invite: leads to the swarm.
        listen: addresses at which to listen; without any, nobody can connect.
        announce: addresses to tell others instead.
        door_of: makes the door for the identity; if left out, it is the door that the invite leads to.

    Raises:
        NetworkError: nobody there answers.
        StorageError: there is no folder for temporary files.
        AccessError: the run is private, and the invite lets nobody in any more.
    """
    with _temporary_folder() as folder:
        identity = Identity.open(Path(folder) / "passing.key")
        config = NodeConfig(listen, announce, invite.addresses, passing=True)
        door = door_of(identity) if door_of else door_for(invite, identity, passing=True)
        with Swarm.start(identity, config, door) as swarm:
            yield swarm


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory()
    except OSError as error:
        step = "set TMPDIR to a folder that you can write"
        raise StorageError("can't make a temporary folder", reason_of(error), step) from None
