"""Asked to stop before the first step is done, or while it evaluates, a peer does not wait."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from p2ptrain.errors import DataError
from p2ptrain.monitor import events
from p2ptrain.peer import run_peer, session
from p2ptrain.run import RunSpec
from p2ptrain.state.run import Run
from p2ptrain.swarm import Identity
from p2ptrain.tasks import task as tasks_task
from p2ptrain.tasks.causal_lm import CausalLM
from tests.unit.peer.samples import LOOPBACK, VOLUNTEER, Leaver, Notebook, spec_of


class Early(Notebook):
    """Asks the peer to stop at the first event of a kind."""

    def __init__(self, at: type[events.Event], number: int = signal.SIGINT) -> None:
        super().__init__()
        self._at, self._number = at, number

    def emit(self, event: events.Event) -> None:
        super().emit(event)
        if isinstance(event, self._at):
            signal.raise_signal(self._number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_leaves_while_the_run_is_loaded_does_not_wait(tmp_path: Path, corpus: Path, number: int) -> None:
    notes = Early(events.Loading, number)
    run_peer(lambda: Run.found(spec_of(corpus), config=LOOPBACK, home=tmp_path), VOLUNTEER, notes)
    assert [type(event) for event in notes.events] == [events.Preparing, events.Loading, events.Left]
    assert notes.events[-1] == events.Left(folder="", resume=""), "the run was not founded yet"
    Identity.open(tmp_path / "identities" / "1.key").close()  # nothing is left open


def test_who_leaves_a_run_that_it_resumes_is_told_how_to_go_on(tmp_path: Path, corpus: Path) -> None:
    founded = Leaver()
    run_peer(lambda: Run.found(spec_of(corpus), config=LOOPBACK, home=tmp_path), VOLUNTEER, founded)
    folder = Path(founded.all(events.Started)[0].folder)
    before = (folder / "checkpoint.pt").read_bytes()
    notes = Early(events.Loading)
    run_peer(lambda: Run.resume(folder, config=LOOPBACK), VOLUNTEER, notes, ("--no-lan",))
    assert notes.events[-1] == events.Left(str(folder), shlex.join(["p2ptrain", "peer", str(folder), "--no-lan"]))
    assert (folder / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("at", [events.Started, events.Training])
def test_who_leaves_before_the_first_step_is_told_where_the_run_is(
    tmp_path: Path, corpus: Path, at: type[events.Event]
) -> None:
    notes = Early(at)
    run_peer(lambda: Run.found(spec_of(corpus), config=LOOPBACK, home=tmp_path), VOLUNTEER, notes)
    stopped, folder = notes.all(events.Stopped)[0], Path(notes.all(events.Started)[0].folder)
    assert (stopped.reason, stopped.steps, stopped.height) == ("stopped", 0, 0)
    assert notes.events[-1] == stopped
    assert not (folder / "checkpoint.pt").exists()
    assert stopped.resume in (folder / "log.txt").read_text(), "a terminal may be gone"
    again = Leaver()
    run_peer(lambda: Run.resume(folder, config=LOOPBACK), VOLUNTEER, again)
    assert again.all(events.Stopped)[0].height >= 1


def test_a_library_may_call_the_interruption_an_error(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(spec: RunSpec, options: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise DataError("the model can't be loaded") from error

    monkeypatch.setattr(session, "open_task", load)
    notes = Notebook()
    run_peer(lambda: Run.found(spec_of(corpus), config=LOOPBACK, home=tmp_path), VOLUNTEER, notes)
    assert isinstance(notes.events[-1], events.Left)


def test_an_interruption_that_nobody_asked_for_is_an_error(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(spec: RunSpec, options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "open_task", load)
    with pytest.raises(KeyboardInterrupt):
        run_peer(lambda: Run.found(spec_of(corpus), config=LOOPBACK, home=tmp_path), VOLUNTEER, Notebook())


def test_an_evaluation_does_not_keep_who_wants_to_leave(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take minutes, and nothing is lost by ending it."""
    monkeypatch.setattr(tasks_task, "EVAL_BATCH", 1)
    notes, measured, measure = Notebook(), list[object](), CausalLM._measure

    def measure_once(task: CausalLM, forward: Any, rows: Any) -> Any:
        measured.append(rows)
        signal.raise_signal(signal.SIGINT)
        return measure(task, forward, rows)

    monkeypatch.setattr(CausalLM, "_measure", measure_once)
    run_peer(lambda: Run.found(spec_of(corpus), config=LOOPBACK, home=tmp_path), VOLUNTEER, notes)
    assert len(measured) == 1
    assert not notes.all(events.Evaluated)
    assert (Path(notes.all(events.Started)[0].folder) / "checkpoint.pt").exists()
