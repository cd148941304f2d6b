"""Contributions with the same bytes: by several authors, or by one author at every height."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from p2ptrain.diloco import events
from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.replica import Replica as Disk
from p2ptrain.diloco.replica import StartingPoint, StateGone
from p2ptrain.run import NO_DIGEST, Digest, Genesis, PeerId
from p2ptrain.state import Blobs, RunFolder
from tests.unit.diloco.peers import same_bits
from tests.unit.diloco.samples import limited
from tests.unit.diloco.swarm_in_memory import KEYS, Replica, World, initial_state, spec_with

DEPTH = 3


class WorldWithDisks(World):
    """Each peer keeps its payloads and snapshots in a run folder, and drops what its snapshots contain."""

    def __init__(self, home: Path, peers: int, fragments: int) -> None:
        spec = limited(spec_with(fragments), rollback_depth=DEPTH)
        super().__init__(1, peers, spec, delay=1e-4)
        self.folders: dict[PeerId, RunFolder] = {}
        self.served: dict[PeerId, Blobs] = {}
        self.disks: dict[PeerId, Disk] = {}
        base = initial_state(spec)
        genesis = Genesis.found(spec, base.digest, NO_DIGEST, "tests", KEYS[0])
        for peer in self.replicas:
            self.folders[peer] = RunFolder.create(home / peer, genesis, spec, peer)
            self.served[peer] = Blobs()
            self.disks[peer] = Disk(self.folders[peer], None, self.served[peer])
            self.disks[peer].begin(StartingPoint(base))

    def feed(self, to: PeerId, event: events.Event) -> None:
        if isinstance(event, events.Offered) and event.contribution.author == to:
            part = event.contribution
            self.disks[to].store_payload(part, self.replicas[to].blobs[Digest(part.payload)], self.replicas[to].state)
        super().feed(to, event)

    def perform(self, replica: Replica, action: events.Action) -> None:
        super().perform(replica, action)
        if isinstance(action, events.HeadChanged) and action.head.height % 2 == 0:
            self.disks[replica.me].snapshots.save(replica.state)

    def fetch(self, replica: Replica, contribution: Contribution) -> None:
        others = [peer for peer in self.replicas if self.reaches(replica.me, peer)]
        found = (self.served[peer].read(Digest(contribution.payload)) for peer in [replica.me, *others])
        if (data := next(filter(None, found), None)) is not None:
            usable = self.disks[replica.me].store_payload(contribution, data, replica.state)
            self.feed(replica.me, events.Stored(contribution, usable))
        else:
            self.feed(replica.me, events.FetchFailed(contribution))

    def apply(self, replica: Replica, commit: Commit) -> None:
        try:
            state = self.disks[replica.me].apply(commit).state
        except StateGone:
            self.feed(replica.me, events.ApplyFailed(commit.digest, differs=False))
            return
        replica.states[commit.digest] = state
        self.feed(replica.me, events.Applied(state.head))

    def deliver_all(self) -> None:
        while self.bag:
            self.step()

    def close(self) -> None:
        for folder in self.folders.values():
            folder.close()


@pytest.fixture(params=[1, 2], ids=["P=1", "P=2"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[WorldWithDisks]:
    made = WorldWithDisks(tmp_path, 3, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("zeros", [1, 2], ids=["one sends zeros", "two send zeros"])
def test_peers_that_always_send_the_same_bytes_stop_nobody(world: WorldWithDisks, zeros: int) -> None:
    senders = list(world.replicas.values())[:zeros]
    world.deliver_all()
    for height in range(1, 4 * DEPTH):
        for replica in world.replicas.values():
            if replica.contributed < height:
                world.contribute(replica, scale=0.0 if replica in senders else 1.0)
        world.deliver_all()
        world.tick(0.1)
        world.deliver_all()
        assert {head.height for head in world.live_heads()} == {height}
        [*_, commit] = (world.folders[senders[0].me].ledger.commits(height - 1)).values()
        assert len(Commit.decode(commit).contributions) == 3, "each author counts, also with the bytes of another"
    assert world.agreed()
    world.check()
    for peer, replica in world.replicas.items():
        restarted = Disk(world.folders[peer], None, Blobs())
        for state in list(replica.states.values())[-DEPTH - 1 :]:
            assert same_bits(restarted.state_at(state.commit), state)
