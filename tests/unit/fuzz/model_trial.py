"""Play a random model through the product: it trains as it should, or one message says why not."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from random import Random
from typing import Any

import torch

from p2ptrain.errors import P2PTrainError
from p2ptrain.run import RunSpec
from p2ptrain.tasks import LocalOptions, open_task
from p2ptrain.tasks.task import Task
from tests.unit.fuzz.models import LENGTH, Model, make_model
from tests.unit.fuzz.trial import Diverged, check_export, train

LABELS = {"label_column": "mood", "labels": ["bad", "good"]}
TASKS: dict[str, dict[str, Any]] = {
    "language-modelling": {},
    "classification": {"text": "{text}", **LABELS},
    "completion": {"prompt": "{text}", "completion": " {mood}", **LABELS},
}
METHODS = (
    {"name": "diloco", "schedule": "constant"},
    {"name": "spsa", "lr": 1e-3, "epsilon": 1e-3, "clip": 8.0},
)


def play_model(seed: int, folder: Path) -> str:
    """Play the trial with this seed; return how it ended.

    Raises:
        AssertionError: it ended wrongly. Every other error is a fault of the product, too.
    """
    random = Random(seed)
    folder.mkdir(parents=True)
    kind = random.choice(("language-modelling", "language-modelling", "classification", "completion"))
    model = make_model(random, kind)
    section: dict[str, Any] = {"architecture": model.family.name, "config": model.config}
    method = random.choice((METHODS[0], METHODS[0], METHODS[1]))
    rows = [
        {"text": f"number {at} is {'odd' if at % 2 else 'even'}", "mood": ("bad", "good")[at % 2]} for at in range(40)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = RunSpec.model_validate(
        {
            "run": {"name": "trial"},
            "model": section,
            "task": {"kind": kind, **TASKS[kind]},
            "data": {"source": "files", "paths": [str(path)], "sequence_length": LENGTH, "held_out": 0.3},
            "method": method,
        }
    )
    try:
        return _play(spec, model, folder)
    except Exception as error:
        if isinstance(error, Diverged) and model.is_open:
            return "diverged"
        error.add_note(f"seed {seed}: {kind} with {model.family.name}, {method['name']}, {model.config}")
        error.add_note(f"must be refused for {model.refused}, may be: {model.is_open}")
        raise


def _play(spec: RunSpec, model: Model, folder: Path) -> str:
    try:
        task = open_task(spec, LocalOptions(device="cpu", batch_size=2))
    except P2PTrainError as error:
        _check_refusal(error, model)
        return "refused"
    assert model.refused is None or model.is_open, "it was not refused"
    assert all(tensor.isfinite().all() for tensor in task.model.state_dict().values())
    task.load_data(1)
    if spec.method.computes_gradients:
        train(task)
    else:
        task.model.eval()  # as a one-byte run does
        assert math.isfinite(task.loss(0).item())
    if spec.task.kind != "classification":
        _check_causal(task)
    check_export(task, folder / "export", spec.task.kind == "classification")
    return "trained"


def _check_refusal(error: P2PTrainError, model: Model) -> None:
    told = str(error)
    assert error.exit_code in (3, 7, 15), f"exit code {error.exit_code}: {told}"
    assert error.what, told
    assert error.next_step, f"no next step: {told}"
    assert not re.search(r"Traceback|object at 0x", told), told
    assert "\n" not in error.what + error.why + error.next_step, told
    assert model.refused is not None or model.is_open, f"refused, but it works: {told}"
    if not model.is_open:
        assert re.search(model.refused or "", told), f"refused for another reason: {told}"


def _check_causal(task: Task) -> None:
    """What a model predicts does not depend on later tokens."""
    task.model.eval()
    row = torch.arange(LENGTH)[None] % 200
    for at in (LENGTH // 2, LENGTH - 1):
        other = row.clone()
        other[0, at:] = 65 + torch.arange(LENGTH - at)
        with torch.no_grad():
            seen, again = (task.model(input_ids=ids, use_cache=False).logits[0, :at] for ids in (row, other))
        if not (seen.isfinite().all() and again.isfinite().all()):
            raise Diverged("a logit is not finite")
        assert torch.allclose(seen, again, rtol=1e-3, atol=1e-4), f"it sees token {at}"
