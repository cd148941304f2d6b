"""The round protocol under thousands of orders of events."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.diloco.swarm_in_memory import World, spec_with

CHAOS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def live_through(world: World, events: int, loss: float, duplicates: float, upheaval: float) -> None:
    """Random training, messages in any order, partitions, deaths and returns."""
    peers = list(world.replicas)
    for _ in range(events):
        dice = world.random.random()
        replica = world.replicas[world.random.choice(peers)]
        if dice < 0.04:
            world.contribute(replica)
        elif dice < 0.06:
            world.heartbeat(replica)
        elif dice < 0.10:
            world.tick(world.random.expovariate(2.0))
        elif dice < 0.10 + upheaval:
            if world.random.random() < 0.5:
                world.island[replica.me] = world.random.randrange(2)
            else:
                replica.alive = not replica.alive
            world.notice_peers()
        else:
            world.step(loss, duplicates)


def heal(world: World) -> None:
    for replica in world.replicas.values():
        replica.alive = True
        world.island[replica.me] = 0
    world.notice_peers()


@CHAOS
@given(seed=st.integers(0, 2**32), peers=st.integers(2, 5), fragments=st.sampled_from([1, 2, 4]))
def test_equal_heads_mean_equal_bytes_and_all_reach_one_head(seed: int, peers: int, fragments: int) -> None:
    world = World(seed, peers, spec_with(fragments))
    live_through(world, events=1500, loss=0.2, duplicates=0.1, upheaval=0.01)
    world.check()
    heal(world)
    world.settle()
    world.check()


@pytest.mark.parametrize("seed", range(5))
def test_a_quiet_swarm_commits_what_everyone_contributed(seed: int) -> None:
    world = World(seed, 3, spec_with(2), delay=1e-4)
    while world.bag:
        world.step()
    for height in range(1, 11):
        for replica in world.replicas.values():
            if replica.contributed < height:
                world.contribute(replica)
        while world.bag:
            world.step()
        world.tick(0.1)
        while world.bag:
            world.step()
        assert {head.height for head in world.live_heads()} == {height}
        commit = next(iter(world.replicas.values())).rounds.chain.commit(world.live_heads()[0].commit)
        assert commit is not None
        assert len(commit.contributions) == 3
    assert world.agreed()
    world.check()
