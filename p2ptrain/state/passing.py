"""In a swarm for a moment, to look or to give an order: under an identity that is gone afterwards, and that nobody
there is asked to remember."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from p2ptrain.state.members import door_for
from p2ptrain.swarm import Identity, Invite, NodeConfig, Swarm
from p2ptrain.swarm.config import NOWHERE
from p2ptrain.swarm.door import Door


def passing(
    invite: Invite, listen: tuple[str, ...] = (NOWHERE,), announce: tuple[str, ...] = ()
) -> contextlib.AbstractContextManager[Swarm]:
    """Look into the swarm of an invite.

    Raises:
        NetworkError: nobody there answers.
        AccessError: the run is private, and the invite does not let anybody in any more.
    """
    return passing_by(invite.addresses, partial(door_for, invite, passing=True), listen, announce)


@contextlib.contextmanager
def passing_by(
    addresses: tuple[str, ...],
    door_of: Callable[[Identity], Door],
    listen: tuple[str, ...] = (NOWHERE,),
    announce: tuple[str, ...] = (),
) -> Iterator[Swarm]:
    """The swarm at these addresses; `door_of` makes the door of the identity that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        identity = Identity.open(Path(folder) / "passing.key")
        config = NodeConfig(listen, announce, addresses, passing=True)
        with Swarm.start(identity, config, door_of(identity)) as swarm:
            yield swarm
