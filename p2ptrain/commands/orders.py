"""An owner's orders, on their way to the members of a private run."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Set

from p2ptrain.commands.visiting import find_member, tell_everyone
from p2ptrain.errors import AccessError, NetworkError, StorageError
from p2ptrain.run import PeerId, SigningKey, short_peer
from p2ptrain.run.access import Access, commitment
from p2ptrain.run.certificate import KEY_BYTES, MOST_KEPT, MOST_SHUT_OUT, Order
from p2ptrain.swarm import Swarm
from p2ptrain.swarm.private_door import PrivateDoor
from p2ptrain.units import counted


def shut_out(
    swarm: Swarm, key: SigningKey, peers: tuple[PeerId, ...], *invites: bytes, companions: bool = False
) -> tuple[Order, int]:
    """Sign an order and give it to the members who are there; returns it, and how many took it.

    The invites by which the peers came are closed, too.

    Args:
        invites: more that are closed.
        companions: shut out the others, too, who came by these invites: one holder of a link can be many peers.

    Raises:
        NetworkError: nobody took it.
        StorageError: too many came by the same invites.
    """
    door = swarm.door
    assert isinstance(door, PrivateDoor)

    async def learn(peer: PeerId) -> None:
        await door.papers.pull(peer)

    with contextlib.suppress(NetworkError):  # somebody may have come by these invites lately
        tell_everyone(swarm, door.access.run, learn, but=peers)
    secret, others = secrets.token_bytes(KEY_BYTES), companions_of(door.access, peers) if companions else frozenset()
    order = make_order(door.access, key, peers, invites, secret, others)

    async def give(peer: PeerId) -> None:
        await door.papers.give(peer, order, secret)

    return order, tell_everyone(swarm, door.access.run, give, but={*peers, *others})


def shut_out_words(order: Order, author: PeerId) -> str:
    """For the line that says what was done: what became of others who came by the same invite."""
    out, stay = len(order.peers) - 1, len(order.kept)
    if out:
        return f"{short_peer(author)} is revoked, and {counted(out, 'other')} who came by the same invite"
    if stay:
        return f"{short_peer(author)} is revoked ({counted(stay, 'other')} who came by the same invite stay in)"
    return f"{short_peer(author)} is revoked"


def member_to_shut_out(access: Access, text: str) -> PeerId:
    """By a peer id, its ending, or the label of the invite.

    Raises:
        StorageError: that names nobody, or several.
        AccessError: it is an owner.
    """
    member = find_member(access, text)
    if member.role == "owner":
        raise AccessError(
            f"{short_peer(member.peer)} is an owner of the run",
            "the run's first record says so, for good",
            "to be rid of an owner, start a new run with others",
        )
    return member.peer


def companions_of(access: Access, peers: tuple[PeerId, ...]) -> frozenset[PeerId]:
    """Others who came by the same invites as these, and are in."""
    return _in_by(access, {invite for peer in peers for invite in access.invites_of(peer)}) - {*peers}


def _in_by(access: Access, invites: Set[bytes]) -> frozenset[PeerId]:
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
    """An order whose secret is `secret`; raises StorageError as above.

    `companions` are named as long as there is room; by the closing of their invites they are all out.
    """
    closed = {*invites, *(invite for peer in peers for invite in access.invites_of(peer))}
    kept = _in_by(access, closed) - {*peers, *companions}
    named = (*peers, *sorted(companions))[:MOST_SHUT_OUT]
    if len(kept) > MOST_KEPT:
        raise StorageError(
            f"{len(kept)} members came by the same invite",
            f"an order can name {MOST_KEPT} of them who stay",
            "give them invites of their own first: p2ptrain invite RUN_DIR --renew PEER",
        )
    return Order(
        author=key.peer_id,
        run=access.run,
        time=int(time.time()),
        peers=named,
        closed=tuple(sorted(closed)),
        kept=tuple(sorted(kept)),
        secret=commitment(secret),
    ).signed(key)
