"""Fetches what the state machine asks for: the bytes of contributions and the commits of branches. Tells the others
which bytes have arrived, and stops fetching those that no round needs any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from p2ptrain.diloco import events
from p2ptrain.diloco.chain import Contribution
from p2ptrain.diloco.join import Joiner
from p2ptrain.diloco.news import HoldingNews
from p2ptrain.diloco.replica import Replica
from p2ptrain.diloco.round import Rounds
from p2ptrain.diloco.snapshots import CONTRIBUTION
from p2ptrain.diloco.state import GlobalState
from p2ptrain.run import Digest, PeerId, short_peer
from p2ptrain.state import Fetcher, FetchError
from p2ptrain.state.workers import Workers
from p2ptrain.swarm import Membership

HOLDING_DELAY = 0.03
"""Seconds in which arrivals are collected for one message to the others."""
FETCH_PATIENCE = 10.0
"""Seconds."""
MOST_TOLD = 256
"""Payloads that one message can name."""
BRANCHES_AT_ONCE, BRANCH_SECONDS = 4, 60.0
"""How many peers are asked for their branches' commits at a time, and how long each may take."""

log = logging.getLogger(__name__)


class Gathering:
    """One peer's fetches. Used on the network thread only. `feed` gives an event to the state machine that asked for
    the fetch, and `spawn` starts background work."""

    def __init__(
        self,
        joiner: Joiner,
        fetcher: Fetcher,
        replica: Replica,
        workers: Workers,
        membership: Membership,
        feed: Callable[[Rounds, events.Event], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None] | None],
    ) -> None:
        self._joiner, self._fetcher, self._replica = joiner, fetcher, replica
        self._workers, self._membership = workers, membership
        self._feed, self._spawn = feed, spawn
        self._fetching: dict[asyncio.Task[None], Contribution] = {}
        self._asking: set[PeerId] = set()
        self._say: set[Digest] = set()

    def fetch(self, contribution: Contribution, rounds: Rounds, head: Callable[[], GlobalState]) -> None:
        """Start to fetch a contribution's bytes. On arrival they are checked against the state that `head` returns."""
        task = self._spawn(self._fetch(contribution, rounds, head))
        if task is not None:
            self._fetching[task] = contribution
            task.add_done_callback(self._fetching.pop)

    async def _fetch(self, contribution: Contribution, rounds: Rounds, head: Callable[[], GlobalState]) -> None:
        sources, size = lambda: self._holders(contribution, rounds), contribution.size
        try:
            data = await self._fetcher.fetch(contribution.payload, sources, CONTRIBUTION, size, FETCH_PATIENCE)
            usable = await self._workers.compute(self._replica.store_payload, contribution, data, head())
            event: events.Event = events.Stored(contribution, usable)
        except FetchError as error:
            log.info("%s", error)
            event = events.FetchFailed(contribution)
        self._feed(rounds, event)

    def _holders(self, contribution: Contribution, rounds: Rounds) -> list[PeerId]:
        """Peers to ask for the bytes: the author, then those that say they hold them, then those past that height."""
        live = self._membership.live
        likely = [contribution.author, *rounds.holders(contribution.payload)]
        passed = [peer for peer, seen in live.items() if seen.height >= contribution.height]
        return [peer for peer in dict.fromkeys([*likely, *passed]) if peer in live]

    def give_up_stale(self, rounds: Rounds) -> None:
        """Stop fetching contributions of past heights that no known commit lists. On a slow line they would delay the
        next round's."""
        for task, offer in list(self._fetching.items()):
            if offer.height <= rounds.head.height and not rounds.chain.lists(offer.payload):
                task.cancel()
                self._feed(rounds, events.FetchFailed(offer))

    async def fetch_commits(self, tip: Digest, source: PeerId, rounds: Rounds) -> None:
        """Get the commits from `tip` down to a known one from a peer, and feed them oldest first."""
        if source in self._asking or len(self._asking) >= BRANCHES_AT_ONCE:
            return  # the state machine asks again
        self._asking.add(source)
        try:
            async with asyncio.timeout(BRANCH_SECONDS):
                known, floor = rounds.chain.__contains__, rounds.chain.root.height
                commits = await self._joiner.fetch_branch(tip, [source], known, floor)
        except TimeoutError:
            log.info("%s was too slow to hand out the commits of its branch", short_peer(source))
            return
        finally:
            self._asking.discard(source)
        if commits and commits[0].parent not in rounds.chain:
            log.info("the branch of %s begins at no commit that is known here", short_peer(source))
            return
        for commit in commits:
            self._feed(rounds, events.Committed(commit, source))

    def tell(self, payload: Digest) -> None:
        """Tell the others that this payload is here, in one message with those that arrive `HOLDING_DELAY` later."""
        if not self._say:
            self._spawn(self._tell())
        self._say.add(payload)

    async def _tell(self) -> None:
        await asyncio.sleep(HOLDING_DELAY)
        payloads, self._say = tuple(self._say)[:MOST_TOLD], set()
        await self._membership.publish(HoldingNews(payloads=payloads))
