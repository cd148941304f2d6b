"""How fast this machine trains a run alone: the same loop as a peer's, without the network."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch

from p2ptrain.parameters import shared_parameters
from p2ptrain.peer.batch_size import choose_batch_size
from p2ptrain.peer.diloco_loop import make_optimizer
from p2ptrain.peer.memory import Memory
from p2ptrain.peer.session import prepare_torch
from p2ptrain.peer.stopping import Stopping
from p2ptrain.run import NO_DIGEST, RunSpec, SigningKey, SPSAMethod
from p2ptrain.spsa.estimator import Alone, Estimator
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.replica import Replica
from p2ptrain.spsa.state import MasterState
from p2ptrain.state.logs import Log
from p2ptrain.tasks import LocalOptions, Task, open_task

REPORT_SECONDS = 1.0
WARM_UP_STEPS = 3


def measure_speed(spec: RunSpec, local: LocalOptions, threads: int | None, seconds: float, json_lines: bool) -> None:
    """Train for `seconds` and print inner steps and tokens per second, with --json also every second meanwhile."""
    stopping = Stopping()
    prepare_torch(threads)
    task = open_task(spec, local)
    task.load_data(0)
    if local.batch_size is None:
        choose_batch_size(task, spec.method.name, Memory(None, task.device))
    one_step = _measuring(task, spec) if isinstance(spec.method, SPSAMethod) else _training(task, spec)
    step = 0

    def train() -> None:
        nonlocal step
        one_step(step)
        step += 1

    for _ in range(WARM_UP_STEPS):
        train()
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


def _training(task: Task, spec: RunSpec) -> Callable[[int], None]:
    """An inner step of Streaming DiLoCo."""
    optimizer = make_optimizer(task.model, spec.diloco)

    def step(index: int) -> None:
        loss = task.loss(index)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), spec.diloco.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def _measuring(task: Task, spec: RunSpec) -> Callable[[int], None]:
    """A step of one-byte SPSA."""
    method, tensors = spec.spsa, shared_parameters(task.model)
    task.model.eval()
    layout = MasterLayout.for_weights(tensors)
    state = MasterState(layout, {}, layout.from_weights(tensors).numpy())
    replica = Replica(NO_DIGEST, method, state, task.device)
    log = Log(SigningKey.generate().peer_id, bytes(8))
    alone = Alone(NO_DIGEST, log, method, replica, Estimator(method, replica, tensors, task.loss_on))
    each = method.batches_per_seed

    def step(index: int) -> None:
        alone.step([task.batch(at) for at in range(index * each, (index + 1) * each)])

    return step
