"""The Python API between real peers: the examples of docs/python.md as printed there, and who does not fit."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from p2ptrain import OneByteSPSA, Run, RunSpec, StorageError, StreamingDiLoCo, UsageError
from p2ptrain.swarm import NodeConfig
from tests.swarm.lab import REPOSITORY


def example(name: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "python.md").read_text(), re.DOTALL)
    return next(block for block in blocks if name in block)


@pytest.mark.parametrize(
    ("name", "least", "loss"),
    [("StreamingDiLoCo(", 40, 0.1), pytest.param("OneByteSPSA(", 3000, 0.3, marks=pytest.mark.long)],
)
def test_the_documented_example_trains_two_programs_to_one_state(
    tmp_path: Path, name: str, least: int, loss: float
) -> None:
    program = tmp_path / "train.py"
    program.write_text(example(name))
    environment = {**os.environ, "P2PTRAIN_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

    with contextlib.ExitStack() as programs:

        def start(*arguments: str) -> subprocess.Popen[str]:
            command = [sys.executable, str(program), *arguments]
            process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)
            programs.enter_context(process)  # closes the pipe
            programs.callback(process.kill)
            return process

        first = start()
        assert first.stdout is not None
        second = start(first.stdout.readline().strip())
        ends = [process.communicate(timeout=90)[0].splitlines()[-1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    heads = {re.sub(r", loss .*", "", end) for end in ends}
    assert len(heads) == 1
    assert int(re.findall(r"height (\d+)", heads.pop())[0]) >= least
    assert all(float(end.rpartition(" ")[2]) < loss for end in ends)


LOOPBACK = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",))


def trainer(method: str, run: Run, bias: float) -> StreamingDiLoCo | OneByteSPSA:
    """Of two layers of which the first one is not trained; its bias is given."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    model[0].bias.fill_(bias)
    if method == "spsa":
        return OneByteSPSA(model, lambda x: model(x).square().mean(), run)
    return StreamingDiLoCo(model, torch.optim.AdamW(model[1].parameters()), run)


@pytest.mark.parametrize(("method", "settings"), [("diloco", {"fragments": 1}), ("spsa", {})])
def test_who_has_other_frozen_weights_is_told_so_before_it_trains(
    tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    spec = RunSpec.custom("part", method=method, **settings)
    with Run.found(spec, config=LOOPBACK, home=tmp_path / "0") as run, trainer(method, run, 0.5):
        with Run.join(run.invite(), config=LOOPBACK, home=tmp_path / "1") as other:
            with pytest.raises(StorageError, match="another model") as refusal:
                trainer(method, other, 0.25)
            assert "untrained weights differ" in refusal.value.why
        with Run.join(run.invite(), config=LOOPBACK, home=tmp_path / "2") as same, trainer(method, same, 0.5) as third:
            assert third.vitals.phase != "training"


class Averaging(torch.nn.Linear):
    """Keeps a moving average of its input, in a way that nobody can see before it trains."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.lerp_(x.detach().mean(0), 0.1)
        return super().forward(x)


@pytest.mark.parametrize(("method", "settings"), [("diloco", {"fragments": 1, "inner_steps": 2}), ("spsa", {})])
def test_a_buffer_that_training_changes_ends_it_before_anything_is_contributed(
    tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    model, batch = Averaging(), torch.rand(8, 4)
    spec, changed = RunSpec.custom("drift", method=method, **settings), "training changes the buffer 'mean'"
    with Run.found(spec, config=LOOPBACK, home=tmp_path) as run:
        if method == "spsa":
            spsa = OneByteSPSA(model, lambda x: model(x).square().mean(), run)
            with spsa, pytest.raises(UsageError, match=changed):
                spsa.step(batch)
            return
        with StreamingDiLoCo(model, torch.optim.AdamW(model.parameters()), run) as diloco:
            model(batch).square().mean().backward()
            diloco.step(tokens=8)
            with pytest.raises(UsageError, match=changed):
                diloco.step(tokens=8)
            assert diloco.height == 0
