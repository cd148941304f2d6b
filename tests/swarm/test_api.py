"""The README's Python examples, as printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.swarm.lab import REPOSITORY


def example(name: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if name in block)


@pytest.mark.parametrize(
    ("name", "least", "loss"),
    [("StreamingDiLoCo(", 40, 0.1), pytest.param("OneByteSPSA(", 3000, 0.3, marks=pytest.mark.long)],
)
def test_the_readmes_example_trains_two_programs_to_one_state(
    tmp_path: Path, name: str, least: int, loss: float
) -> None:
    program = tmp_path / "train.py"
    program.write_text(example(name))
    environment = {**os.environ, "P2PTRAIN_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(program), *arguments], env=environment, text=True, stdout=subprocess.PIPE
        )

    first = start()
    try:
        assert first.stdout is not None
        invite = first.stdout.readline().strip()
        second = start(invite)
        try:
            ends = [process.communicate(timeout=90)[0].splitlines()[-1] for process in (first, second)]
        finally:
            second.kill()
            second.wait()
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    assert (first.returncode, second.returncode) == (0, 0)
    heads = {re.sub(r", loss .*", "", end) for end in ends}
    assert len(heads) == 1
    assert int(re.findall(r"height (\d+)", heads.pop())[0]) >= least
    assert all(float(end.rpartition(" ")[2]) < loss for end in ends)
