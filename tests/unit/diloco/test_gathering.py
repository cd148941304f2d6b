"""The bytes of contributions: fetched while they can still count, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

from p2ptrain.diloco import events
from p2ptrain.diloco.chain import Contribution
from p2ptrain.diloco.gathering import Gathering
from p2ptrain.run import Digest, PeerId, digest_of
from p2ptrain.state import FetchError
from tests.unit.diloco.samples import PEERS

RUN = digest_of(b"a run")


def offer(height: int, author: PeerId = PEERS[1]) -> Contribution:
    return Contribution(
        author=author, run=RUN, height=height, base=RUN, payload=digest_of(b"%d" % height), size=9, tokens=1, steps=1
    )


class Network:
    """Bytes arrive when the test says so, or fail."""

    def __init__(self) -> None:
        self.asked: dict[Digest, Callable[[], list[PeerId]]] = {}
        self.arrives: dict[Digest, asyncio.Future[bytes]] = {}
        self.told: asyncio.Queue[tuple[Digest, ...]] = asyncio.Queue()
        self.live: dict[PeerId, Any] = {peer: SimpleNamespace(height=3) for peer in PEERS[1:4]}

    async def fetch(self, digest: Digest, sources: Callable[[], list[PeerId]], *_: Any) -> bytes:
        self.asked[digest] = sources
        self.arrives[digest] = asyncio.get_running_loop().create_future()
        return await self.arrives[digest]

    async def compute(self, work: Callable[..., bool], *arguments: Any) -> bool:
        return work(*arguments)

    def store_payload(self, _offer: Contribution, data: bytes, _state: Any) -> bool:
        return data == b"good"

    async def publish(self, news: Any) -> None:
        self.told.put_nowait(news.payloads)


class Fixture:
    """A gathering, the rounds that ask it, and what they are told."""

    def __init__(self) -> None:
        self.network, self.heard = Network(), list[events.Event]()
        self.listed: set[Digest] = set()
        self.holders: set[PeerId] = set()
        self.rounds: Any = SimpleNamespace(
            head=SimpleNamespace(height=0),
            chain=SimpleNamespace(lists=self.listed.__contains__),
            holders=lambda payload: self.holders,
        )
        network = cast(Any, self.network)
        parts = (network, network, network, network, network)
        self.gathering = Gathering(*parts, lambda _, event: self.heard.append(event), spawn)

    def fetch(self, *offers: Contribution) -> None:
        for each in offers:
            self.gathering.fetch(each, self.rounds, lambda: cast(Any, None))


def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(work)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_arrives_is_judged_and_what_does_not_has_failed() -> None:
    async def scenario() -> list[events.Event]:
        made, offers = Fixture(), [offer(1), offer(2), offer(3)]
        made.fetch(*offers)
        await settle()
        results: list[bytes | FetchError] = [b"good", b"bad", FetchError("nobody offers it")]
        for each, result in zip(offers, results, strict=True):
            future = made.network.arrives[Digest(each.payload)]
            future.set_exception(result) if isinstance(result, FetchError) else future.set_result(result)
        await settle()
        return made.heard

    judged = [events.Stored(offer(1), True), events.Stored(offer(2), False), events.FetchFailed(offer(3))]
    assert asyncio.run(scenario()) == judged


def test_a_contribution_whose_height_was_committed_without_it_is_let_go() -> None:
    """What is listed on any branch, and what is for a later height, comes all the same."""

    async def scenario() -> tuple[list[events.Event], list[bool]]:
        made, offers = Fixture(), [offer(1), offer(2), offer(3)]
        made.fetch(*offers)
        await settle()
        made.listed.add(Digest(offers[1].payload))
        made.rounds.head.height = 2
        made.gathering.give_up_stale(made.rounds)
        made.gathering.give_up_stale(made.rounds)
        await settle()
        return made.heard, [made.network.arrives[Digest(each.payload)].cancelled() for each in offers]

    heard, cancelled = asyncio.run(scenario())
    assert set(heard) == {events.FetchFailed(offer(1))}
    assert cancelled == [True, False, False]


def test_the_author_is_asked_first_then_who_holds_it_then_who_is_past_that_height() -> None:
    async def scenario() -> list[list[PeerId]]:
        made, late = Fixture(), offer(3)
        made.holders = {PEERS[2], PEERS[5]}
        made.fetch(late)
        await settle()
        sources = made.network.asked[Digest(late.payload)]
        asked = [sources()]
        del made.network.live[PEERS[1]]
        return [*asked, sources()]

    assert asyncio.run(scenario()) == [[PEERS[1], PEERS[2], PEERS[3]], [PEERS[2], PEERS[3]]]


def test_what_arrives_together_is_told_together() -> None:
    async def scenario() -> list[tuple[Digest, ...]]:
        made = Fixture()
        for height in range(3):
            made.gathering.tell(digest_of(b"%d" % height))
        first = await made.network.told.get()
        made.gathering.tell(digest_of(b"9"))
        return [first, await made.network.told.get()]

    first, second = asyncio.run(scenario())
    assert set(first) == {digest_of(b"%d" % height) for height in range(3)}
    assert second == (digest_of(b"9"),)
