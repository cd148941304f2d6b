"""Which state a newcomer begins from, and what of it is fetched."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2ptrain.method import AnotherModel
from p2ptrain.run import Digest, PeerId
from p2ptrain.spsa.join import Joiner
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.position import Position
from p2ptrain.spsa.state import MasterState
from p2ptrain.state import FetchError, RunFolder
from p2ptrain.swarm import Presence
from tests.unit.diloco.samples import KEY_OF, PEERS
from tests.unit.spsa.folders import WEIGHTS, Written
from tests.unit.swarm.people import presence_of


class Crowd:
    """Others, what they announce and hand out, and a newcomer's empty folder."""

    def __init__(self, written: Written, folder: RunFolder) -> None:
        self.written, self.folder = written, folder
        self.live: dict[PeerId, Presence] = {}
        self.blobs: dict[Digest, bytes] = {}
        self.asked: list[tuple[Digest, tuple[PeerId, ...]]] = []
        self.calls: Counter[str] = Counter()

    def announce(self, *states: MasterState, by: PeerId) -> None:
        said = tuple((state.records, state.digest) for state in states)
        self.live[by] = presence_of(KEY_OF[by], snapshots=said)
        for state in states:
            self.blobs[state.digest] = state.manifest.encoded
            self.blobs.update({manifest.digest: part.tobytes() for manifest, part in state.parts})

    async def directory(self) -> dict[PeerId, Presence]:
        self.calls["directory"] += 1
        return self.live

    async def fetch(
        self, digest: Digest, sources: Any, purpose: str, max_bytes: int, progress: Any = None, incoming: Any = None
    ) -> bytes:
        self.asked.append((digest, tuple(sources())))
        if digest not in self.blobs:
            raise FetchError("nobody has it")
        return self.blobs[digest]

    def release(self, digest: Digest) -> None:
        self.calls["release"] += 1

    def joiner(self) -> Joiner:
        run = SimpleNamespace(folder=self.folder)
        return Joiner(*cast(Any, (run, self, self, lambda name, facts: None)))

    def state_for(
        self, base: MasterState | None = None, allowed: Callable[[Position], bool] = lambda position: True
    ) -> MasterState:
        return asyncio.run(self.joiner().find_state(base or self.written.base, allowed))


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Crowd]:
    written = Written(tmp_path / "theirs")
    folder = RunFolder.create(tmp_path / "mine", written.folder.genesis, written.folder.spec, PEERS[3])
    yield Crowd(written, folder)
    folder.close()
    written.close()


@pytest.fixture
def half(crowd: Crowd) -> MasterState:
    return crowd.written.state_at(crowd.written.half)


@pytest.fixture
def all_of_it(crowd: Crowd) -> MasterState:
    return crowd.written.state_at(crowd.written.all)


def test_who_has_the_base_and_hears_of_nothing_later_begins_there(crowd: Crowd) -> None:
    crowd.announce(crowd.written.base, by=PEERS[1])
    assert crowd.state_for() is crowd.written.base
    assert crowd.asked == []


def test_the_newest_snapshot_that_most_peers_have_is_fetched(
    crowd: Crowd, half: MasterState, all_of_it: MasterState
) -> None:
    crowd.announce(all_of_it, half, crowd.written.base, by=PEERS[0])
    for peer in PEERS[1:3]:
        crowd.announce(half, crowd.written.base, by=peer)
    found = crowd.state_for()
    assert (found.digest, found.position) == (half.digest, half.position)
    assert crowd.asked[0] == (half.digest, tuple(PEERS[:3]))


def test_the_newest_one_is_fetched_if_most_have_it(crowd: Crowd, half: MasterState, all_of_it: MasterState) -> None:
    crowd.announce(half, by=PEERS[0])
    for peer in PEERS[1:3]:
        crowd.announce(all_of_it, half, by=peer)
    assert crowd.state_for().digest == all_of_it.digest
    assert {holders for _, holders in crowd.asked} == {tuple(PEERS[1:3])}


def test_what_a_snapshot_shares_with_the_base_is_not_fetched(crowd: Crowd) -> None:
    """The newcomer builds another base than the genesis names, e.g. with another seed."""
    base = crowd.written.base
    mine = MasterState(base.layout, {}, base.master.copy() + 1)
    crowd.announce(mine, by=PEERS[1])
    crowd.live[PEERS[1]] = presence_of(KEY_OF[PEERS[1]], snapshots=((0, base.digest),))
    crowd.blobs[base.digest] = base.manifest.encoded
    crowd.blobs.update({manifest.digest: part.tobytes() for manifest, part in base.parts})
    assert crowd.state_for(mine).digest == base.digest
    assert [digest for digest, _ in crowd.asked] == [base.digest, base.parts[0][0].digest]
    crowd.asked.clear()
    moved = MasterState(base.layout, crowd.written.half, base.master.copy())  # every record was zero
    crowd.announce(moved, by=PEERS[1])
    assert crowd.state_for().digest == moved.digest
    assert [digest for digest, _ in crowd.asked] == [moved.digest]


@pytest.mark.parametrize("fault", ["gone", "rubbish", "not so many records", "cut", "a part of another length"])
def test_a_snapshot_that_can_not_be_used_is_left_for_another(
    crowd: Crowd, half: MasterState, all_of_it: MasterState, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    for peer in PEERS[:2]:
        crowd.announce(all_of_it, half, by=peer)
    if fault == "gone":
        del crowd.blobs[all_of_it.digest]
    elif fault == "rubbish":
        crowd.blobs[all_of_it.digest] = b"rubbish"
    elif fault == "not so many records":
        crowd.blobs[all_of_it.digest] = half.manifest.encoded
    elif fault == "a part of another length":
        crowd.blobs[all_of_it.parts[0][0].digest] += bytes(4)
    allowed = (lambda position: position != all_of_it.position) if fault == "cut" else (lambda position: True)
    assert crowd.state_for(allowed=allowed).digest == half.digest
    assert "the snapshot" in caplog.text
    assert "of height 43 can't be used" in caplog.text


def test_a_base_that_the_genesis_does_not_name_is_not_begun_from(crowd: Crowd, half: MasterState) -> None:
    base = crowd.written.base
    other = MasterState(base.layout, {}, base.master.copy() + 1)
    for peer in PEERS[:2]:
        crowd.announce(other, by=peer)
    crowd.announce(half, by=PEERS[2])
    assert crowd.state_for(other).digest == half.digest
    assert crowd.asked[0][0] == other.digest, "most have it"


def test_another_model_is_told_of(crowd: Crowd, half: MasterState) -> None:
    crowd.announce(half, by=PEERS[1])
    renamed = {f"layer.{name}": tensor for name, tensor in WEIGHTS.items()}
    layout = MasterLayout.for_weights(renamed)
    frozen = MasterState(half.layout, {}, half.master.copy(), Digest(b"f" * 32))
    for base in (MasterState(layout, {}, layout.from_weights(renamed).numpy()), frozen):
        with pytest.raises(AnotherModel):
            crowd.state_for(base)
