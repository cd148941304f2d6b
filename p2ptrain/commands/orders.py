"""An owner's orders to the members of a private run: which peers are out, and which invites are closed."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Set

from p2ptrain.commands.visiting import tell_everyone
from p2ptrain.errors import NetworkError, StorageError
from p2ptrain.run import PeerId, SigningKey
from p2ptrain.run.access import Access, commitment
from p2ptrain.run.certificate import KEY_BYTES, MOST_KEPT, MOST_SHUT_OUT, Order
from p2ptrain.swarm import Swarm
from p2ptrain.swarm.private_door import PrivateDoor


def shut_out(
    swarm: Swarm, key: SigningKey, peers: tuple[PeerId, ...], *invites: bytes, companions: bool = False
) -> tuple[Order, int]:
    """Sign an order with an owner's key and give it to all members that are online. It shuts the peers out, and closes
    the invites that they used. Raises NetworkError if no member took it, and StorageError if too many members used the
    same invites.

    Args:
        invites: more invites that the order closes.
        companions: also shut out every other peer that used these invites. One person can make many peers with one
            link.

    Returns:
        The order, and how many members took it.
    """
    door = swarm.door
    assert isinstance(door, PrivateDoor)
    access, papers = door.access, door.papers
    with contextlib.suppress(NetworkError):  # members may know of newcomers that used these invites
        tell_everyone(swarm, access.run, papers.pull, but=peers)
    secret, others = secrets.token_bytes(KEY_BYTES), companions_of(access, peers) if companions else frozenset()
    order = make_order(access, key, peers, invites, secret, others)
    told = tell_everyone(swarm, access.run, lambda peer: papers.give(peer, order, secret), but={*peers, *others})
    return order, told


def companions_of(access: Access, peers: tuple[PeerId, ...]) -> frozenset[PeerId]:
    """The other members that used the same invites as these peers."""
    return _members_by(access, {invite for peer in peers for invite in access.invites_of(peer)}) - {*peers}


def _members_by(access: Access, invites: Set[bytes]) -> frozenset[PeerId]:
    came = {peer for invite in invites for peer in access.came_by(invite)} - access.owners
    return frozenset(peer for peer in came if not access.refusal(peer, time.time()))


def make_order(
    access: Access,
    key: SigningKey,
    peers: tuple[PeerId, ...],
    invites: tuple[bytes, ...],
    secret: bytes,
    companions: frozenset[PeerId] = frozenset(),
) -> Order:
    """The order that `shut_out` gives. It commits to `secret`, from which the gossip's next key is made. It names as
    many companions as it has room for; closing their invites shuts out the rest.

    Raises StorageError if too many members used the same invites."""
    closed = {*invites, *(invite for peer in peers for invite in access.invites_of(peer))}
    kept = _members_by(access, closed) - {*peers, *companions}
    if len(kept) > MOST_KEPT:
        raise StorageError(
            f"{len(kept)} other members came by the same invites",
            f"the order closes these invites, and it can name at most {MOST_KEPT} members that stay",
            "shut them out too, with --everyone; then invite again those that should stay",
        )
    return Order(
        author=key.peer_id,
        run=access.run,
        time=int(time.time()),
        peers=(*peers, *sorted(companions))[:MOST_SHUT_OUT],
        closed=tuple(sorted(closed)),
        kept=tuple(sorted(kept)),
        secret=commitment(secret),
    ).signed(key)
