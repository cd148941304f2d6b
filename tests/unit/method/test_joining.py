"""Which snapshot a newcomer takes, and how often it looks around until there is one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2ptrain.diloco.join import Joiner as DiLoCoJoiner
from p2ptrain.errors import LedgerError, MalformedError, NetworkError
from p2ptrain.method import AnotherModel, Offer, find_snapshot
from p2ptrain.method.joining import LOOK_AGAIN_SECONDS, NOBODY_AFTER, most_held
from p2ptrain.run import Digest, PeerId, digest_of
from p2ptrain.spsa.join import Joiner as SPSAJoiner
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.state import MasterState
from p2ptrain.state import FetchError
from p2ptrain.swarm import Presence
from tests.unit.diloco.samples import KEY_OF, PEERS
from tests.unit.diloco.swarm_in_memory import initial_state, spec_with
from tests.unit.spsa.folders import WEIGHTS
from tests.unit.state.samples import run_in_no_time
from tests.unit.swarm.people import presence_of

OLD, NEW = digest_of(b"old"), digest_of(b"new")
Fetch = Callable[[Offer, Mapping[PeerId, Presence]], Awaitable[Digest]]


class Crowd:
    """Stands for a membership: others who announce snapshots, and how often the directory is asked."""

    def __init__(self) -> None:
        self.live: dict[PeerId, Presence] = {}
        self.calls: Counter[str] = Counter()

    def announce(self, peer: PeerId, *snapshots: tuple[int, Digest]) -> None:
        self.live[peer] = presence_of(KEY_OF[peer], snapshots=snapshots)

    async def directory(self) -> dict[PeerId, Presence]:
        self.calls["directory"] += 1
        return self.live

    def find(self, fetch: Fetch) -> Digest:
        return run_in_no_time(find_snapshot(cast(Any, self), fetch))


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


async def as_offered(offer: Offer, _peers: Mapping[PeerId, Presence]) -> Digest:
    return offer.state


def test_the_newest_snapshot_that_most_peers_hold_is_taken(crowd: Crowd) -> None:
    crowd.announce(PEERS[0], (9, NEW), (5, OLD))
    crowd.announce(PEERS[1], (5, OLD))
    crowd.announce(PEERS[2], (5, OLD))
    assert most_held(crowd.live, set()) == Offer(5, OLD, tuple(PEERS[:3]))
    assert crowd.find(as_offered) == OLD


@pytest.mark.parametrize("problem", [FetchError("gone"), MalformedError("bad"), LedgerError("false"), AnotherModel()])
def test_a_snapshot_that_can_not_be_used_is_left_for_the_next_one(crowd: Crowd, problem: Exception) -> None:
    crowd.announce(PEERS[0], (9, NEW))
    crowd.announce(PEERS[1], (5, OLD))

    async def fetch(offer: Offer, _peers: Mapping[PeerId, Presence]) -> Digest:
        if offer.state == NEW:
            raise problem
        return offer.state

    assert crowd.find(fetch) == OLD


def test_who_served_what_was_unusable_is_not_believed_if_there_are_others(crowd: Crowd) -> None:
    """Two liars outvote one honest peer only until their first snapshot was found out."""
    worse = digest_of(b"worse")
    for peer in PEERS[:2]:
        crowd.announce(peer, (9, NEW), (8, worse))
    crowd.announce(PEERS[2], (5, OLD))
    tried = []

    async def fetch(offer: Offer, peers: Mapping[PeerId, Presence]) -> Digest:
        tried.append(offer.state)
        if offer.state != OLD:
            raise LedgerError("a snapshot is not the one that the chain names")
        return offer.state

    assert crowd.find(fetch) == OLD
    assert tried == [NEW, OLD]


def test_if_all_that_is_left_is_another_model_that_is_said_at_once(crowd: Crowd) -> None:
    crowd.announce(PEERS[0], (9, NEW))

    async def fetch(_offer: Offer, _peers: Mapping[PeerId, Presence]) -> Digest:
        raise AnotherModel

    async def find() -> float:
        with pytest.raises(AnotherModel):
            await find_snapshot(cast(Any, crowd), fetch)
        return asyncio.get_running_loop().time()

    assert run_in_no_time(find()) < 5


def diloco_joiner(crowd: Crowd, folder: Path) -> Awaitable[object]:
    swarm = SimpleNamespace(rpc=None)
    joiner = DiLoCoJoiner(*cast(Any, (swarm, crowd, None, None, SimpleNamespace(incoming=None), None, None)))
    return joiner.find_start(initial_state(spec_with(1)))


def spsa_joiner(crowd: Crowd, folder: Path) -> Awaitable[object]:
    run = SimpleNamespace(folder=SimpleNamespace(genesis=SimpleNamespace(base=digest_of(b"another base"))))
    joiner = SPSAJoiner(*cast(Any, (run, crowd, None, lambda name, facts: None)))
    layout = MasterLayout.for_weights(WEIGHTS)
    return joiner.find_state(MasterState(layout, {}, layout.from_weights(WEIGHTS).numpy()), lambda position: True)


@pytest.mark.parametrize("join", [diloco_joiner, spsa_joiner])
@pytest.mark.parametrize("announced", [False, True], ids=["nobody serves", "what is served is gone"])
def test_nobody_is_asked_without_a_pause_until_it_is_given_up(
    crowd: Crowd,
    tmp_path: Path,
    join: Callable[[Crowd, Path], Awaitable[object]],
    announced: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In either method: no more than one look into the directory for each half of a heartbeat."""
    crowd.announce(PEERS[1], *([(9, NEW)] if announced else []))

    async def gone(self: object, *_: object) -> None:
        raise FetchError("nobody has it")

    for joiner in (DiLoCoJoiner, SPSAJoiner):
        monkeypatch.setattr(joiner, "_fetch", gone)

    async def find() -> float:
        with pytest.raises(NetworkError, match="no peer handed out the run's state") as failure:
            await join(crowd, tmp_path)
        assert ("nobody has it" if announced else "announces a snapshot") in failure.value.why
        return asyncio.get_running_loop().time()

    seconds = run_in_no_time(find())
    assert NOBODY_AFTER <= seconds < NOBODY_AFTER + 5
    assert crowd.calls["directory"] <= seconds / LOOK_AGAIN_SECONDS + 2
