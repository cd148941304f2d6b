"""`p2ptrain speed`: how fast this machine trains a run alone, with a peer's own steps and without the network."""

from __future__ import annotations

import json
import time

from p2ptrain.peer.batch_size import choose_batch_size
from p2ptrain.peer.memory import Memory
from p2ptrain.peer.methods import method_of
from p2ptrain.peer.session import prepare_torch
from p2ptrain.peer.stopping import Stopping
from p2ptrain.run import RunSpec
from p2ptrain.tasks import LocalOptions, Task, open_task

REPORT_SECONDS = 1.0
WARM_UP_STEPS = 3


def measure_speed(spec: RunSpec, local: LocalOptions, threads: int | None, seconds: float, json_lines: bool) -> None:
    """Train for `seconds` and print inner steps and tokens per second; with `json_lines` also a line every second.
    Raises DataError or SpecError if the model or the data can't be loaded here, and MemoryLimitError if not even a
    batch of one row fits."""
    with Stopping("finishing the step") as stopping:
        prepare_torch(threads)
        task = open_task(spec, local)
        task.load_data(0)
        if local.batch_size is None:
            choose_batch_size(task, spec, Memory(None, task.device))
        _measure(spec, task, seconds, json_lines, stopping)


def _measure(spec: RunSpec, task: Task, seconds: float, json_lines: bool, stopping: Stopping) -> None:
    one_step = method_of(spec).alone(spec, task)
    step = 0

    def train() -> None:
        nonlocal step
        one_step(step)
        step += 1

    for _ in range(WARM_UP_STEPS):
        train()
    stopping.finish_steps()
    step, began = 0, time.monotonic()
    reported = began
    while (now := time.monotonic()) - began < seconds and not stopping.requested():
        if json_lines and now - reported >= REPORT_SECONDS:
            reported = now
            print(json.dumps({"event": "speed", "steps": step, "at": round(now, 3)}), flush=True)
        train()
    rate = step / (time.monotonic() - began)
    tokens = rate * task.tokens_per_step
    if json_lines:
        result = {"event": "result", "steps_per_second": rate, "tokens_per_second": tokens, "device": str(task.device)}
        print(json.dumps(result), flush=True)
    else:
        print(f"{rate:.2f} inner steps/s, {tokens:,.0f} tokens/s on {task.device}, batch of {task.batch_size}")
