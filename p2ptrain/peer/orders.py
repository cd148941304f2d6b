"""An owner's orders, on their way to the members of a private run."""

from __future__ import annotations

import secrets
import time

from p2ptrain.errors import StorageError
from p2ptrain.peer.visiting import tell_everyone
from p2ptrain.run import PeerId, SigningKey
from p2ptrain.run.access import Access, commitment
from p2ptrain.run.certificate import KEY_BYTES, MOST_KEPT, Order
from p2ptrain.swarm import Swarm
from p2ptrain.swarm.private_door import PrivateDoor


def shut_out(swarm: Swarm, key: SigningKey, peers: tuple[PeerId, ...], *invites: bytes) -> int:
    """Sign an order and give it to every member who is there; how many took it.

    The invites by which the peers came are closed, too; others who came by them stay.

    Raises:
        NetworkError: nobody took it.
        StorageError: too many came by the same invites.
    """
    door = swarm.door
    assert isinstance(door, PrivateDoor)

    async def learn(peer: PeerId) -> None:
        await door.papers.pull(peer)

    tell_everyone(swarm, door.access.run, learn)  # somebody may have come by these invites lately
    secret = secrets.token_bytes(KEY_BYTES)
    order = make_order(door.access, key, peers, invites, secret)

    async def give(peer: PeerId) -> None:
        await door.papers.give(peer, order, secret)

    return tell_everyone(swarm, door.access.run, give, but=peers)


def make_order(
    access: Access, key: SigningKey, peers: tuple[PeerId, ...], invites: tuple[bytes, ...], secret: bytes
) -> Order:
    """An order whose secret is `secret`; raises StorageError as above."""
    closed = {*invites, *(invite for peer in peers for invite in access.invites_of(peer))}
    kept = {peer for invite in closed for peer in access.came_by(invite)} - set(peers)
    kept = {peer for peer in kept if access.order_against(peer) is None}
    if len(kept) > MOST_KEPT:
        raise StorageError(
            f"{len(kept)} members came by the same invite", f"an order can name {MOST_KEPT} of them who stay",
            "give them invites of their own first: p2ptrain invite RUN_DIR --renew PEER",
        )  # fmt: skip
    return Order(
        author=key.peer_id, run=access.run, time=int(time.time()), peers=peers, closed=tuple(sorted(closed)),
        kept=tuple(sorted(kept)), secret=commitment(secret),
    ).signed(key)  # fmt: skip
