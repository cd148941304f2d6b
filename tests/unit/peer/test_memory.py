"""How much memory a peer may take: refused before loading, made room for, stopped before it is too much."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psutil
import pytest
import torch

from p2ptrain.errors import MemoryLimitError
from p2ptrain.monitor import Reporter, events
from p2ptrain.peer import batch_size as choosing
from p2ptrain.peer import memory as watching
from p2ptrain.peer.batch_size import choose_batch_size
from p2ptrain.peer.loop import Loop
from p2ptrain.peer.memory import FULL, Memory, check_before_loading
from p2ptrain.run import RunSpec
from p2ptrain.run.needs import needs_of
from p2ptrain.state.run import Run
from p2ptrain.swarm.door import Door
from p2ptrain.tasks import LocalOptions, Task, open_task
from tests.unit.peer.samples import spec_of

CPU = LocalOptions(device="cpu")


def test_a_run_that_can_not_stay_below_the_limit_is_refused_with_numbers(corpus: Path) -> None:
    with pytest.raises(
        MemoryLimitError, match=r"needs about 0\.6 GB of main memory, and --max-memory allows 0\.2"
    ) as no:
        check_before_loading(spec_of(corpus), CPU, 200_000_000)
    assert "parameters" in no.value.why
    assert "--max-memory 0.7 or more" in no.value.next_step
    check_before_loading(spec_of(corpus), CPU, 2_000_000_000)
    check_before_loading(spec_of(corpus), CPU, None)


def test_what_is_counted_is_what_would_be_loaded(corpus: Path) -> None:
    spec = spec_of(corpus)
    model = open_task(spec, CPU).model
    count = sum(parameter.numel() for parameter in model.parameters())
    with pytest.raises(MemoryLimitError) as no:
        check_before_loading(spec, CPU, 1)
    assert no.value.why.startswith(f"the model has {count:,} parameters, {count:,} of them are trained with diloco")
    check_before_loading(spec, CPU, 1 + int(needs_of(spec, count, count, on_gpu=False).host / FULL))


def test_the_peak_between_two_looks_counts_and_not_the_one_before() -> None:
    memory = Memory(10**12, torch.device("cpu"))
    memory.forget_peak()
    before = memory.used()
    big = np.ones(100_000_000, dtype=np.uint8)
    del big
    assert memory.used() >= before + 90_000_000
    memory.forget_peak()
    assert memory.used() < before + 50_000_000


def test_where_the_peak_can_not_be_forgotten_it_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some containers forbid it. A peak that stays would end the peer long after the memory is free again."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    memory = Memory(10**12, torch.device("cpu"))
    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(watching, "_peak", lambda: 10**12)
    memory.forget_peak()
    assert memory.used() < 10**12


@pytest.mark.parametrize(("share", "state"), [(0.5, "fine"), (0.93, "tight"), (0.99, "full"), (1.2, "full")])
def test_a_limit_is_near_before_it_is_passed(share: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(10**9, torch.device("cpu"))
    monkeypatch.setattr(memory, "used", lambda: int(share * 10**9))
    assert memory.state() == state
    assert Memory(None, torch.device("cpu")).state() == "fine"


# Batches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["diloco", "spsa"])
def test_a_batch_size_is_found_that_works(method: str, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(corpus)
    if method == "spsa":
        spec = RunSpec.model_validate({**spec.model_dump(), "method": {"name": method}})
    task = open_task(spec, LocalOptions(device="cpu", batch_size=None))
    task.load_data(0)
    monkeypatch.setattr(choosing, "find_batch_size", lambda measure: max(n for n in (1, 4, 16) if measure(n)))
    assert choose_batch_size(task, spec, Memory(None, task.device)) == 16
    assert len(task.batch(0)) == task.batch_size == 16
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_a_batch_that_would_pass_the_limit_is_not_tried(corpus: Path) -> None:
    spec = spec_of(corpus)
    task = open_task(spec, LocalOptions(device="cpu", batch_size=None))
    task.load_data(0)
    rss = psutil.Process(os.getpid()).memory_info().rss
    with pytest.raises(MemoryLimitError, match="not enough memory for a batch of one row"):
        choose_batch_size(task, spec, Memory(rss // 2, task.device))


class Trainer:
    """A loop without a swarm, whose memory the test decides."""

    def __init__(self, batch_size: int, used: Callable[[], int], limit: int | None = 1000) -> None:
        self.told: list[Any] = []
        self.emptied = 0
        self.task = SimpleNamespace(
            model=torch.nn.Linear(2, 2),
            device=torch.device("cpu"),
            batch_size=batch_size,
            data_state=lambda: None,
            prepare=lambda: None,
        )
        self.memory = Memory(limit, torch.device("cpu"))
        cast(Any, self.memory).used = used
        cast(Any, self.memory).make_room = self._empty
        run = SimpleNamespace(spec=RunSpec.custom("tests"), swarm=SimpleNamespace(door=Door()))
        self.loop = Loop(
            cast(Run, run),
            cast(Task, self.task),
            cast(Reporter, SimpleNamespace(emit=self.told.append)),
            lambda: False,
            memory=self.memory,
        )

    def _empty(self) -> None:
        self.emptied += 1

    def look(self) -> None:
        self.loop._memory_looked = -100.0
        self.loop._watch_memory()


def test_when_memory_gets_tight_caches_and_batches_shrink_and_at_the_limit_the_peer_stops() -> None:
    used = [500]
    trainer = Trainer(8, lambda: used[0])
    trainer.look()
    assert not trainer.told
    used[0] = 920
    trainer.look()
    assert trainer.task.batch_size == 4
    assert trainer.emptied == 1
    [warning] = trainer.told
    assert "caches are emptied, batches have 4 rows now" in warning.text
    trainer.look()
    assert trainer.loop.given_up is None, "tight is not full"
    used[0] = 980
    trainer.look()
    assert isinstance(trainer.loop.given_up, MemoryLimitError)
    assert len(trainer.told) == 1


def test_a_peak_that_goes_away_is_forgiven() -> None:
    used = [990]
    trainer = Trainer(1, lambda: used[0])
    trainer.look()
    assert trainer.loop.given_up is None
    used[0] = 500
    trainer.look()
    used[0] = 990
    trainer.look()
    assert trainer.loop.given_up is None, "it may make room again"


def test_out_of_memory_halves_the_batch_until_it_fits() -> None:
    trainer = Trainer(8, lambda: 0, None)
    trainer.task.model.weight.grad = torch.ones(2, 2)

    def step() -> None:
        if trainer.task.batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore words")

    assert [trainer.loop._fits(step) for _ in range(3)] == [False, False, True]
    assert trainer.task.model.weight.grad is None, "half a gradient is none"
    assert [event.text for event in trainer.told] == [
        f"out of memory, batches have {size} rows now (CUDA out of memory. Tried to allocate 2 GiB)" for size in (4, 2)
    ]
    assert all(isinstance(event, events.Warned) for event in trainer.told)
    assert trainer.loop.given_up is None


def test_out_of_memory_with_one_row_ends_the_peer_in_order() -> None:
    trainer = Trainer(1, lambda: 0, None)

    def step() -> None:
        raise MemoryError

    assert not trainer.loop._fits(step)
    assert isinstance(trainer.loop.given_up, MemoryLimitError)


def test_other_errors_are_not_taken_for_it() -> None:
    def step() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Trainer(8, lambda: 0, None).loop._fits(step)
