"""The life of a peer: a swarm of one that trains its run to the end, and what is written down on the way."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from p2ptrain.commands.export import export_run
from p2ptrain.commands.provenance import check_export
from p2ptrain.diloco.trainer import make_optimizer
from p2ptrain.errors import DataError, NetworkError, TrainingError
from p2ptrain.monitor import events
from p2ptrain.peer import loop, run_peer
from p2ptrain.peer.hours import Hours
from p2ptrain.peer.loop import Loop
from p2ptrain.peer.pausing import Pauses
from p2ptrain.peer.session import _log_to, accounts
from p2ptrain.run import RunSpec
from p2ptrain.run.spec import LoraSection
from p2ptrain.state.run import Run
from p2ptrain.swarm import Identity
from p2ptrain.text import one_line
from tests.unit.peer.samples import LOOPBACK, VOLUNTEER, Leaver, Notebook, spec_of
from tests.unit.state.samples import empty, flip_a_bit, overwrite, truncate
from tests.unit.tasks.samples import COMPLETION, example_spec


def test_what_a_run_loads_is_told_before_any_of_it_is_loaded(tmp_path: Path, corpus: Path) -> None:
    """Here it would be code, which is refused, too."""
    folder, notes = tmp_path / "model", Notebook()
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "its-own", "auto_map": {"AutoConfig": "x.X"}}')
    (folder / "x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass X:\n    pass\n")
    fields = spec_of(corpus).model_dump() | {"model": {"pretrained": str(folder)}}
    spec = RunSpec.model_validate(fields)
    with pytest.raises(DataError, match="wants code of its own to be run"):
        run_peer(lambda: Run.found(spec, config=LOOPBACK, home=tmp_path), VOLUNTEER, notes)
    [told] = notes.all(events.Loading)
    assert (told.model.what, told.model.place, told.code) == (
        one_line(str(folder), 80),
        "folder",
        "no code from the network is run",
    )
    assert not (tmp_path / "ran").exists()


def test_a_run_is_founded_trained_to_its_end_and_resumed(tmp_path: Path, corpus: Path) -> None:
    notes = Notebook()
    spec = spec_of(corpus, total_steps=12, warmup_steps=0, snapshot_every=4)
    run_peer(lambda: Run.found(spec, config=LOOPBACK, home=tmp_path), VOLUNTEER, notes)
    assert [event.text for event in notes.all(events.Preparing)] == ["connecting", "founding the run"]
    assert [type(event) for event in notes.events[1:6]] == [
        events.Loading,
        events.DataRead,
        events.Preparing,
        events.Started,
        events.Training,
    ]
    started, stopped = cast(events.Started, notes.events[4]), cast(events.Stopped, notes.events[-1])
    assert started.founded
    assert started.peer == notes.me
    assert sorted({event.height for event in notes.all(events.Committed)}) == [1, 2, 3, 4, 5, 6]
    assert all(event.contributors == (notes.me,) for event in notes.all(events.Committed))
    assert notes.all(events.Evaluated)
    assert (stopped.reason, stopped.height, stopped.resume) == ("the run is complete", 6, "")
    assert stopped.steps >= 12
    assert stopped.sent["gossip"] > 0
    assert notes.closed
    folder = Path(started.folder)
    assert (folder / "checkpoint.pt").exists()
    assert (folder / "log.txt").exists()

    again = Notebook()
    run_peer(lambda: Run.resume(folder, config=LOOPBACK), VOLUNTEER, again)
    resumed, training = again.all(events.Started)[0], again.all(events.Training)[0]
    assert (again.all(events.Loading)[0].run, again.all(events.Loading)[0].founder) == (started.run, started.peer)
    assert (resumed.peer, resumed.run, resumed.folder) == (started.peer, started.run, started.folder)
    assert not resumed.founded
    assert (training.height, training.state) == (6, stopped.state)
    assert again.all(events.Stopped)[0].steps == 0


def test_who_leaves_is_told_the_command_that_goes_on_in_the_same_way(tmp_path: Path, corpus: Path) -> None:
    notes = Leaver()
    typed = ("--no-listen", "--name", "Otto's laptop")
    run_peer(lambda: Run.found(spec_of(corpus), config=LOOPBACK, home=tmp_path), VOLUNTEER, notes, typed)
    stopped = notes.all(events.Stopped)[0]
    assert stopped.reason == "stopped"
    assert shlex.split(stopped.resume) == ["p2ptrain", "peer", stopped.folder, *typed]


@pytest.mark.usefixtures("own_dataset_cache")
def test_adapters_are_trained_to_complete_prompts_and_exported(tmp_path: Path, corpus: Path) -> None:
    notes = Notebook()
    spec = spec_of(corpus, total_steps=8, warmup_steps=0)
    examples = example_spec(tmp_path, COMPLETION)
    model = spec.model.model_copy(update={"lora": LoraSection(rank=2)})
    spec = spec.model_copy(update={"data": examples.data, "task": examples.task, "model": model})
    run_peer(lambda: Run.found(spec, config=LOOPBACK, home=tmp_path), VOLUNTEER, notes)
    started, stopped = notes.all(events.Started)[0], notes.all(events.Stopped)[0]
    assert (started.parameters, stopped.height) == (128, 4)
    assert all(0 <= event.accuracy <= 1 for event in notes.all(events.Evaluated))
    export_run(Path(started.folder), tmp_path / "out", None)
    assert all(check.good for check in check_export(tmp_path / "out"))


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, overwrite, empty])
def test_a_damaged_checkpoint_is_named_and_left_aside(
    harm: Callable[[Path], None], tmp_path: Path, corpus: Path
) -> None:
    notes = Notebook()
    run_peer(
        lambda: Run.found(spec_of(corpus, total_steps=8, warmup_steps=0), config=LOOPBACK, home=tmp_path),
        VOLUNTEER,
        notes,
    )
    folder = Path(notes.all(events.Started)[0].folder)
    harm(folder / "checkpoint.pt")
    again = Notebook()
    run_peer(lambda: Run.resume(folder, config=LOOPBACK), VOLUNTEER, again)
    assert any("checkpoint.pt is damaged" in event.text for event in again.all(events.Warned))
    assert again.all(events.Stopped)[0].state == notes.all(events.Stopped)[0].state


def test_a_checkpoint_that_may_lead_to_the_same_end_is_not_kept(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(training: Loop) -> None:
        training.save()
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(Loop, "train", fails)
    notes = Notebook()
    with pytest.raises(TrainingError, match="the loss is nan"):
        run_peer(lambda: Run.found(spec_of(corpus), config=LOOPBACK, home=tmp_path), VOLUNTEER, notes)
    folder = Path(notes.all(events.Started)[0].folder)
    assert not (folder / "checkpoint.pt").exists()
    assert "training can't go on" in (folder / "log.txt").read_text()


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), NetworkError("the connection to the swarm is lost")])
def test_an_error_that_nobody_expected_is_logged_and_what_was_trained_is_saved(
    error: Exception, tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Loop.train

    def fails(training: Loop, *args: Any) -> None:
        monkeypatch.setattr(training.trainer, "step", stumble)
        train(training, *args)

    def stumble(*_: object) -> int:
        raise error

    monkeypatch.setattr(Loop, "train", fails)
    notes = Notebook()
    with pytest.raises(type(error), match=str(error)):
        run_peer(lambda: Run.found(spec_of(corpus), config=LOOPBACK, home=tmp_path), VOLUNTEER, notes)
    folder = Path(notes.all(events.Started)[0].folder)
    assert (folder / "checkpoint.pt").exists()
    log = (folder / "log.txt").read_text()
    assert "Traceback" in log
    assert str(error) in log


def test_what_ends_a_peer_before_it_trains_leaves_nothing_open(tmp_path: Path, corpus: Path) -> None:
    elsewhere = replace(VOLUNTEER, data=(str(tmp_path / "nowhere"),))
    with pytest.raises(DataError, match="no file matches"):
        run_peer(lambda: Run.found(spec_of(corpus), config=LOOPBACK, home=tmp_path), elsewhere, Notebook())
    Identity.open(tmp_path / "identities" / "1.key").close()


# Accounts ----------------------------------------------------------------------------------------------------------


def test_every_byte_that_was_sent_is_in_one_account() -> None:
    node = Counter({"gossip": 50, "blob": 1100, "hello": 7, "commits": 20})
    blobs = Counter({"contribution": 900, "snapshot": 150})
    run = SimpleNamespace(swarm=SimpleNamespace(node=SimpleNamespace(sent=node)), blobs=SimpleNamespace(sent=blobs))
    told = accounts(cast(Run, run))
    assert told == {"contribution": 900, "snapshot": 150, "gossip": 50, "calls": 7 + 20 + 50}
    assert sum(told.values()) == node.total()


# The log -----------------------------------------------------------------------------------------------------------


def test_a_log_that_cant_be_written_ends_nothing_and_is_told_once(tmp_path: Path) -> None:
    log, warned, path = logging.getLogger("p2ptrain.tests"), list[str](), tmp_path / "log.txt"
    path.symlink_to("/dev/full")
    with _log_to(cast(Run, SimpleNamespace(has_folder=True, folder=SimpleNamespace(log=path))), warned.append):
        log.info("a step")
        log.info("another step")
    assert warned == [f"the log {path} can't be written: No space left on device"]


def test_a_log_that_cant_be_opened_ends_nothing_either(tmp_path: Path) -> None:
    log, warned = logging.getLogger("p2ptrain.tests"), list[str]()
    with _log_to(cast(Run, SimpleNamespace(has_folder=True, folder=SimpleNamespace(log=tmp_path))), warned.append):
        log.info("a step")
        log.info("another step")
    assert warned == [f"the log {tmp_path} can't be written: Is a directory"]


def test_the_log_goes_to_the_folder_and_its_warnings_to_the_user(tmp_path: Path) -> None:
    log, warned, path = logging.getLogger("p2ptrain.tests"), list[str](), tmp_path / "log.txt"
    run = SimpleNamespace(has_folder=False, folder=SimpleNamespace(log=path))
    with _log_to(cast(Run, run), warned.append):
        log.info("before there is a folder")
        assert not path.exists()
        run.has_folder = True
        log.info("a step")
        log.warning("a %s", "warning")
    log.warning("too late")
    written = path.read_text()
    assert [line.partition("INFO p2ptrain.tests: ")[2] for line in written.splitlines()[:2]] == [
        "before there is a folder",
        "a step",
    ]
    assert "p2ptrain.tests: a warning" in written
    assert "too late" not in written
    assert warned == ["a warning"]


# The inner optimizer -----------------------------------------------------------------------------------------------


def test_weight_decay_is_for_matrices_and_frozen_parameters_are_left_out(corpus: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2, bias=False))
    model[2].weight.requires_grad = False
    method = spec_of(corpus, weight_decay=0.3, lr=0.02, betas=[0.8, 0.9]).method
    matrices, rest = make_optimizer(model, method).param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(4, 3)]
    assert [tuple(p.shape) for p in rest["params"]] == [(4,), (4,), (4,)]
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    assert {(group["lr"], group["betas"]) for group in (matrices, rest)} == {(0.02, (0.8, 0.9))}


def test_a_model_of_one_kind_of_parameters_has_one_group(corpus: Path) -> None:
    [group] = make_optimizer(torch.nn.Linear(2, 2, bias=False), spec_of(corpus).method).param_groups
    assert group["weight_decay"] == 0.1


# Pauses and limits -------------------------------------------------------------------------------------------------


class Evening(Notebook):
    """Its volunteer's hours end with the first news of training, and come again when the pause has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.time = datetime(2026, 11, 21, 6)
        self.pauses = Pauses(Hours.parse("22-07"), time_of_day=lambda: self.time)

    def emit(self, event: events.Event) -> None:
        super().emit(event)
        if isinstance(event, events.Committed | events.Progress) and not self.all(events.Paused):
            self.time = datetime(2026, 11, 21, 12)
        if isinstance(event, events.Paused):
            self.time = datetime(2026, 11, 21, 22)


@pytest.mark.parametrize(
    "method",
    [
        {"total_steps": 24, "warmup_steps": 0},
        {"name": "spsa", "lr": 1e-3, "epsilon": 1e-2, "clip": 8.0, "total_records": 400},
    ],
    ids=["diloco", "spsa"],
)
def test_a_peer_trains_in_its_hours_alone_and_finishes_its_run(
    tmp_path: Path, corpus: Path, method: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REST_SECONDS", 0.05)
    monkeypatch.setattr(loop, "PROGRESS_SECONDS", 0.1)
    notes, spec = Evening(), spec_of(corpus, **({} if "name" in method else method))
    if "name" in method:
        spec = RunSpec.model_validate({**spec.model_dump(), "method": method})
    run_peer(
        lambda: Run.found(spec, config=LOOPBACK, home=tmp_path, name="night owl"),
        VOLUNTEER,
        notes,
        pauses=notes.pauses,
    )
    [paused], [went_on] = notes.all(events.Paused), notes.all(events.WentOn)
    assert (paused.reason, paused.until) == ("outside its hours", "2026-11-21T22:00")
    assert went_on.seconds > 0
    assert notes.all(events.Stopped)[0].reason == "the run is complete"
    folder = Path(notes.all(events.Started)[0].folder)
    assert (folder / "checkpoint.pt").exists()
