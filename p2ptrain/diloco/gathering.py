"""The bytes of others' contributions, on their way here: from the author or whoever holds them, told of when they have
come, and given up when their round is over without them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from p2ptrain.diloco import events
from p2ptrain.diloco.chain import Contribution
from p2ptrain.diloco.news import HoldingNews
from p2ptrain.diloco.replica import Replica
from p2ptrain.diloco.round import Rounds
from p2ptrain.diloco.snapshots import CONTRIBUTION
from p2ptrain.diloco.state import GlobalState
from p2ptrain.run import Digest, PeerId
from p2ptrain.state import Fetcher, FetchError
from p2ptrain.state.workers import Workers
from p2ptrain.swarm import Membership

HOLDING_DELAY = 0.03
FETCH_PATIENCE = 10.0
MOST_TOLD = 256
"""Payloads that one message can name."""

log = logging.getLogger(__name__)


class Gathering:
    """Of one peer; used on the network thread alone.

    Args:
        feed: takes what has come of a fetch to the state machine that asked for it.
        spawn: starts background work.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        replica: Replica,
        workers: Workers,
        membership: Membership,
        feed: Callable[[Rounds, events.Event], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None] | None],
    ) -> None:
        self._fetcher, self._replica, self._workers, self._membership = fetcher, replica, workers, membership
        self._feed, self._spawn = feed, spawn
        self._fetching: dict[asyncio.Task[None], Contribution] = {}
        self._say: set[Digest] = set()

    def fetch(self, contribution: Contribution, rounds: Rounds, head: Callable[[], GlobalState]) -> None:
        """Start to get a contribution's bytes; `head` is the state against which they are checked then."""
        task = self._spawn(self._fetch(contribution, rounds, head))
        if task is not None:
            self._fetching[task] = contribution
            task.add_done_callback(self._fetching.pop)

    async def _fetch(self, contribution: Contribution, rounds: Rounds, head: Callable[[], GlobalState]) -> None:
        payload = contribution.payload
        try:
            data = await self._fetcher.fetch(
                payload, lambda: self._holders(contribution, rounds), CONTRIBUTION, contribution.size, FETCH_PATIENCE
            )
            usable = await self._workers.compute(self._replica.store_payload, contribution, data, head())
            event: events.Event = events.Stored(payload, usable)
        except FetchError as error:
            log.info("%s", error)
            event = events.FetchFailed(payload)
        self._feed(rounds, event)

    def _holders(self, contribution: Contribution, rounds: Rounds) -> list[PeerId]:
        """Whom to ask for its bytes: the author, who says he has them, then who is past that height."""
        live = self._membership.live
        likely = [contribution.author, *rounds.holders(contribution.payload)]
        passed = [peer for peer, seen in live.items() if seen.height >= contribution.height]
        return [peer for peer in dict.fromkeys([*likely, *passed]) if peer in live]

    def give_up_stale(self, rounds: Rounds) -> None:
        """Stop fetching what was not listed at its height, on any branch that is known: what a slow line still has of a
        round that is over would keep it from the next one."""
        for task, offer in list(self._fetching.items()):
            payload = offer.payload
            if offer.height <= rounds.head.height and not rounds.chain.lists(payload):
                task.cancel()
                self._feed(rounds, events.FetchFailed(payload))

    def tell(self, payload: Digest) -> None:
        """Say that this one is here, soon: one message for what arrives together."""
        if not self._say:
            self._spawn(self._tell())
        self._say.add(payload)

    async def _tell(self) -> None:
        await asyncio.sleep(HOLDING_DELAY)
        payloads, self._say = tuple(self._say)[:MOST_TOLD], set()
        await self._membership.publish(HoldingNews(payloads=payloads))
