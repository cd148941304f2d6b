"""What a bootstrap node finds when it looks at itself every few seconds, and whether that is well.

Programs that ask (a load balancer, Prometheus) get the last look: asking often costs the swarm nothing. A look that is
too old is a problem of its own: then the network thread or this process hangs.
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
    """What was found at one time."""

    at: float
    """On the monotonic clock."""
    peers: frozenset[PeerId] = frozenset()
    """Connected ones."""
    neighbours: int = 0
    """Nodes of the DHT that this one knows."""
    records: int = 0
    """Peers' records that this node keeps for the DHT."""
    sent: tuple[tuple[str, int], ...] = ()
    """Bytes that this process has sent, by what they were for."""
    answer_seconds: float = 0.0
    """How long the DHT took to look something up."""
    problem: str = ""
    """Why the node is of no use to newcomers; empty if it is."""

    def verdict(self, now: float) -> str:
        """What is wrong with the node, as far as this look can tell at a later time; empty if nothing is."""
        if now - self.at > STALE_SECONDS:
            return f"the node has not been looked at for {now - self.at:.0f} s"
        return self.problem


def look_at(swarm: Swarm) -> Look:
    """Ask p2pd who is connected, and the DHT for something that is not there, which makes it ask its neighbours."""
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
            await directory.peers(NO_DIGEST)  # nobody's run
    except TimeoutError:
        problem = f"the DHT has not answered in {ANSWER_SECONDS:.0f} s"
    except Exception as error:  # hivemind's DHT has no error type of its own
        problem = f"the DHT can't be used ({error})"
    seconds, sent = time.perf_counter() - asked, tuple(swarm.node.sent.items())
    return Look(monotonic(), frozenset(peers), directory.neighbours, directory.records, sent, seconds, problem)
