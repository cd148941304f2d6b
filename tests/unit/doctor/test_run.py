"""The doctor judges a run by the same numbers as everything else that tells a size."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2ptrain.doctor import swarm as doctor
from p2ptrain.errors import MemoryLimitError
from p2ptrain.monitor.loading import loading_lines
from p2ptrain.peer import Volunteer
from p2ptrain.peer.contents import look_at
from p2ptrain.peer.memory import check_before_loading
from p2ptrain.run import NO_DIGEST, Genesis, RunSpec, SigningKey
from p2ptrain.run.needs import needs_of
from p2ptrain.swarm import Swarm
from p2ptrain.tasks import LocalOptions
from p2ptrain.units import size

HERE = LocalOptions(device="cpu")
LARGE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 8}
METHODS: dict[str, dict[str, Any]] = {
    "diloco": {"name": "diloco", "schedule": "constant", "fragments": 4, "inner_steps": 100},
    "spsa": {"name": "spsa"},
}


def examined(spec: RunSpec, home: Path, monkeypatch: pytest.MonkeyPatch, free: float) -> str:
    """What the doctor says of a run of this spec, on a machine with so much memory free."""
    monkeypatch.setattr(doctor, "fetch_genesis", lambda swarm, run: None)
    monkeypatch.setattr(doctor, "free_memory", lambda: (free, free))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e12))
    swarm = cast(Swarm, SimpleNamespace(run=lambda work, seconds: (None, spec)))
    return doctor._run(swarm, NO_DIGEST, {}, Volunteer(home=home, device="cpu"), None).text


@pytest.mark.parametrize("method", METHODS)
def test_one_run_has_one_size_whoever_tells_it(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 million parameters, counted without making them: by the doctor, for --max-memory and before loading."""
    spec = RunSpec.model_validate(
        {
            "run": {"name": "large"},
            "model": {"architecture": "llama", "config": LARGE},
            "data": {"source": "stdlib-python"},
            "method": METHODS[method],
        }
    )
    told = look_at(spec, HERE, Genesis.found(spec, NO_DIGEST, NO_DIGEST, "test", SigningKey.generate()))
    assert told.parameters is not None
    assert 10**8 < told.parameters == told.trained
    needs = needs_of(spec, told.parameters, told.parameters, on_gpu=False)

    assert f"it needs {size(needs.host)} of memory, 1.0 MB are free" in examined(spec, tmp_path, monkeypatch, 1e6)
    with pytest.raises(MemoryLimitError, match=f"needs about {needs.host / 1e9:.1f} GB of main memory"):
        check_before_loading(spec, HERE, 10**6)

    assert told.state_bytes == needs.fetched
    assert f"state of {size(needs.fetched)} at most" in examined(spec, tmp_path, monkeypatch, 1e12)
    assert any(f"at most {size(needs.fetched)}" in line for line in loading_lines(told))
