"""How a newcomer finds a state to start from: it tries the newest snapshot that most peers hold, then the next one.

A snapshot is not trusted because somebody serves it. The method checks each against its ledger, and goes on to the next
one if the check fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass
from typing import TypeVar

from p2ptrain.errors import LedgerError, MalformedError, NetworkError, StorageError
from p2ptrain.run import Digest, PeerId, short
from p2ptrain.state import FetchError
from p2ptrain.swarm import HEARTBEAT_SECONDS, Membership, Presence

NOBODY_AFTER = 60.0
"""Seconds after which a newcomer gives up if there is no usable snapshot."""
LOOK_AGAIN_SECONDS = HEARTBEAT_SECONDS / 2
"""Pause between two looks while nobody serves a snapshot: peers only say something new with their next heartbeat."""

log = logging.getLogger(__name__)
Found = TypeVar("Found")


class AnotherModel(StorageError):
    """A state is whole, but it belongs to another model than the one that was built here."""

    def __init__(self) -> None:
        super().__init__(
            "the run's state belongs to another model",
            "names, shapes or untrained weights differ from the model that was built here",
            "build the model that the run's spec describes, with the same versions of torch and transformers",
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """A snapshot that peers announce."""

    height: int
    state: Digest
    holders: tuple[PeerId, ...]


async def hear_peers(membership: Membership) -> dict[PeerId, Presence]:
    """The run's peers and what they say. Peers that only the directory lists get a moment to be heard."""
    for _ in range(3):
        listed = await membership.directory()
        if listed.keys() <= membership.live.keys() and membership.live:
            break
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
    return {**listed, **membership.live}


def most_held(peers: Mapping[PeerId, Presence], unusable: Set[Digest]) -> Offer | None:
    """The newest snapshot that more than half of the peers announce; if there is none, the newest one that any peer
    announces; else None."""
    announced = (snapshot for seen in peers.values() for snapshot in seen.snapshots)
    votes = Counter(snapshot for snapshot in announced if snapshot[1] not in unusable)
    if not votes:
        return None
    height, state = max(votes, key=lambda vote: (2 * votes[vote] > len(peers), vote[0], votes[vote]))
    return Offer(height, state, tuple(peer for peer, seen in peers.items() if (height, state) in seen.snapshots))


async def find_snapshot(
    membership: Membership, fetch: Callable[[Offer, Mapping[PeerId, Presence]], Awaitable[Found]]
) -> Found:
    """Fetch the newest snapshot that most peers hold; if it can't be used, the next one, until one is here.

    `fetch` fetches and checks an offered snapshot. It is also given what the peers say.

    Raises:
        NetworkError: no peer has handed out a snapshot that can be used, for `NOBODY_AFTER` seconds.
        AnotherModel: all that is left is the state of another model.
        StorageError: the disk can't take what arrives.
    """
    now = asyncio.get_running_loop().time
    deadline = now() + NOBODY_AFTER
    unusable, doubted = set[Digest](), set[PeerId]()
    problem: Exception | str = "no peer of the run announces a snapshot"
    while now() < deadline:
        heard = await hear_peers(membership)
        trusted = {peer: seen for peer, seen in heard.items() if peer not in doubted} or heard
        offer = most_held(trusted, unusable)
        if offer is None:
            if isinstance(problem, AnotherModel):
                raise problem
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            continue
        try:
            return await fetch(offer, trusted)
        except (FetchError, MalformedError, LedgerError, AnotherModel) as error:
            problem = problem if isinstance(problem, AnotherModel) else error
            log.warning("the snapshot %s of height %d can't be used: %s", short(offer.state), offer.height, error)
            unusable.add(offer.state)
            doubted.update(offer.holders)
            deadline = now() + NOBODY_AFTER
    raise NetworkError(
        "no peer handed out the run's state",
        str(problem),
        "check that a peer that trains in this run is reachable, or ask for a newer invite",
    )
