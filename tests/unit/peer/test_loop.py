"""What the training loop tells and saves on the way."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from p2ptrain.data.stream import SourceSilent
from p2ptrain.diloco.trainer import DiLoCoTrainer
from p2ptrain.errors import DataError
from p2ptrain.monitor import Reporter, events
from p2ptrain.peer import loop
from p2ptrain.peer.loop import Loop
from p2ptrain.peer.pausing import Silence
from p2ptrain.run import RunSpec, digest_of
from p2ptrain.state import Rollback
from p2ptrain.state.run import Run
from p2ptrain.swarm.door import Door
from p2ptrain.tasks import Task

SPEC = RunSpec.custom("tests", inner_steps=4, fragments=2, snapshot_every=8)


class Optimizer:
    """Notes when it is paused. `rests` is called while it is."""

    height, is_complete = 0, False

    def __init__(self) -> None:
        self.did: list[str] = []
        self.rests: Callable[[float], None] = lambda seconds: None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def pause(self) -> None:
        self.did.append("pause")

    def resume(self) -> None:
        self.did.append("resume")

    def rest(self, seconds: float) -> None:
        self.rests(seconds)


class Peer:
    """A trainer without a swarm, and a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.saving, self.saved, self.told = 100.0, 0.0, list[int](), list[Any]()
        monkeypatch.setattr(loop, "monotonic", lambda: self.now)
        monkeypatch.setattr(torch, "save", lambda state, file: self._save(state))
        monkeypatch.setattr(loop, "write_whole", lambda path, data: None)
        reporter = SimpleNamespace(emit=self.told.append)
        self.prepare: Callable[[], None] = lambda: None
        cpu, nothing = torch.device("cpu"), lambda: None
        task = SimpleNamespace(
            model=torch.nn.Linear(2, 2), data_state=nothing, device=cpu, prepare=lambda: self.prepare(), batch_size=1
        )
        swarm = SimpleNamespace(door=Door())
        run = SimpleNamespace(spec=SPEC, folder=SimpleNamespace(checkpoint=None), swarm=swarm)
        self.stop = False
        self.loop = Loop(cast(Run, run), cast(Task, task), cast(Reporter, reporter), lambda: self.stop)
        self.loop._silence = Silence(task.prepare, lambda: self.now)
        self.trainer = object.__new__(DiLoCoTrainer)
        self.trainer._method, self.trainer._saved_height = SPEC.diloco, 0
        self.optimizer = Optimizer()
        self.trainer.optimizer = cast(Any, self.optimizer)
        self.loop._trainer = self.trainer

    def _save(self, state: Any) -> None:
        self.now += self.saving
        self.saved.append(self.trainer.optimizer.height)

    def reach(self, height: int, seconds: float) -> None:
        self.now += seconds
        self.optimizer.height = height
        self.loop._save_if_due()


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Peer:
    return Peer(monkeypatch)


def test_a_checkpoint_is_written_at_snapshot_heights(peer: Peer) -> None:
    for height in range(1, 30):
        peer.reach(height, 1.0)
    assert peer.saved == [8, 16, 24]


def test_a_height_that_was_jumped_over_is_made_up_for(peer: Peer) -> None:
    for height in (7, 9, 10, 30, 31):
        peer.reach(height, 1.0)
    assert peer.saved == [9, 30]


def test_slow_disks_get_fewer_checkpoints(peer: Peer) -> None:
    peer.saving = 4.0
    for height in range(8, 80, 8):
        peer.reach(height, 100.0)
    assert peer.saved == [8, 40, 72], "400 s for each that takes 4 s"


def test_fetching_is_told_about_once_a_second_and_to_the_end(peer: Peer) -> None:
    for chunk in range(1, 41):
        peer.now += 0.1
        peer.loop._hear("progress", {"here": chunk, "in_all": 40})
    peer.loop._hear("progress", {"here": 1, "in_all": 2})
    peer.now += 1.0
    peer.loop._hear("progress", {"here": 2, "in_all": 2})
    assert not peer.loop._look_up()
    whole = [event for event in peer.told if event.bytes_here == event.bytes_total]
    assert whole == [events.Fetching(40, 40, 3.9, 10.0), events.Fetching(2, 2, 1.0, 1.0)]
    assert 5 <= len(peer.told) <= 6


def test_what_was_here_before_does_not_count_as_fetched_fast(peer: Peer) -> None:
    for here in (3000, 3100, 3200):
        peer.loop._hear("progress", {"here": here, "in_all": 5000})
        peer.now += 2.0
    assert not peer.loop._look_up()
    assert [(event.bytes_here, event.rate) for event in peer.told] == [(3100, 50), (3200, 50)]


def test_a_rollback_is_told_with_what_it_cost(peer: Peer) -> None:
    old, new = digest_of(b"old"), digest_of(b"new")
    peer.loop._hear("rollback", {"cost": Rollback(old, new, 3, 500, 200)})
    assert not peer.loop._look_up()
    assert peer.told == [events.RolledBack(3, old.hex(), new.hex(), 500, 200)]


def test_closing_before_it_was_connected_does_nothing(peer: Peer) -> None:
    peer.loop._trainer = None
    peer.loop.close()


# Data that do not come -----------------------------------------------------------------------------------------------


def test_a_peer_whose_data_do_not_come_waits_in_the_swarm_and_goes_on(peer: Peer) -> None:
    def silent() -> None:
        if peer.now < 120.0:
            raise SourceSilent("the hub is down")

    def rest(seconds: float) -> None:
        peer.now += seconds

    peer.prepare, peer.optimizer.rests = silent, rest
    assert peer.loop._may_go_on()
    assert peer.optimizer.did == ["pause", "resume"]
    assert peer.saved == [0], "before it waits"
    paused, went_on = peer.told
    assert paused == events.Paused("the data do not come (the hub is down)", None)
    assert 20 <= went_on.seconds < 40


def test_who_waits_for_data_can_be_stopped(peer: Peer) -> None:
    def silent() -> None:
        raise SourceSilent("the hub is down")

    def rest(seconds: float) -> None:
        peer.stop = True

    peer.prepare, peer.optimizer.rests = silent, rest
    assert not peer.loop._may_go_on()
    assert peer.loop.given_up is None


@pytest.mark.parametrize("at_once", [True, False])
def test_data_that_are_gone_end_training_and_not_with_a_traceback(peer: Peer, at_once: bool) -> None:
    gone = DataError("can't read a.jsonl, after row 7", "No such file or directory")

    def prepare() -> None:
        raise gone if at_once or peer.now > 101.0 else SourceSilent("the hub is down")

    def rest(seconds: float) -> None:
        peer.now += seconds

    peer.prepare, peer.optimizer.rests = prepare, rest
    assert not peer.loop._may_go_on()
    assert peer.loop.given_up is gone


def test_data_that_fail_within_a_step_end_training_too(peer: Peer) -> None:
    gone = DataError("can't read a.jsonl, after row 7")

    def fails(error: Exception) -> Callable[[], None]:
        def step() -> None:
            raise error

        return step

    assert not peer.loop._fits(fails(SourceSilent("the hub is down")))
    assert peer.loop.given_up is None
    assert not peer.loop._fits(fails(gone))
    assert peer.loop.given_up is gone
