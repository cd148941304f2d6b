"""A bootstrap node checks itself every few seconds, and says whether it is healthy.

Programs that ask (a load balancer, Prometheus) get the result of the last check, so asking often costs the swarm
nothing. If the last check is too old, the node is not healthy: the network thread or this process hangs.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from p2ptrain.run import NO_DIGEST, PeerId
from p2ptrain.swarm import Swarm, monotonic
from p2ptrain.swarm.node import ControlError

LOOK_SECONDS = 5.0
ANSWER_SECONDS = 10.0
STALE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Look:
    """The result of one check."""

    at: float
    """Seconds on the monotonic clock."""
    peers: frozenset[PeerId] = frozenset()
    """The peers that are connected."""
    neighbours: int = 0
    """Number of other DHT nodes that this node knows."""
    records: int = 0
    """Number of records that this node keeps for the DHT."""
    sent: tuple[tuple[str, int], ...] = ()
    """Bytes that this process has sent, by purpose."""
    answer_seconds: float = 0.0
    """Seconds that a look-up in the DHT took."""
    problem: str = ""
    """Why newcomers can't use the node; empty if they can."""

    def verdict(self, now: float) -> str:
        """What is wrong with the node at the time `now`, on the monotonic clock; empty if nothing is."""
        if now - self.at > STALE_SECONDS:
            return f"the node has not checked itself for {now - self.at:.0f} s"
        return self.problem


def look_at(swarm: Swarm) -> Look:
    """Ask p2pd for the connected peers, and the DHT for a key that nobody has: then it asks its neighbours."""
    try:
        return swarm.run(_look_at(swarm), 3 * ANSWER_SECONDS)
    except TimeoutError:
        return Look(monotonic(), problem="the network thread hangs")


async def _look_at(swarm: Swarm) -> Look:
    directory, problem = swarm.directory, ""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            peers = await swarm.node.connected()
    except TimeoutError:
        return Look(monotonic(), problem=f"p2pd has not answered in {ANSWER_SECONDS:.0f} s")
    except (OSError, ControlError, asyncio.IncompleteReadError) as error:
        return Look(monotonic(), problem=f"p2pd does not answer ({error})")
    asked = time.perf_counter()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await directory.peers(NO_DIGEST)  # no run has this id
    except TimeoutError:
        problem = f"the DHT has not answered in {ANSWER_SECONDS:.0f} s"
    except Exception as error:  # hivemind's DHT has no error type of its own
        problem = f"the DHT can't be used ({error})"
    seconds, sent = time.perf_counter() - asked, tuple(swarm.node.sent.items())
    return Look(monotonic(), frozenset(peers), directory.neighbours, directory.records, sent, seconds, problem)
