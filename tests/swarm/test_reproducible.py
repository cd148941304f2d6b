"""With overlap = n a swarm of real processes computes what a single-process simulation computes, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.merge import merge
from p2ptrain.diloco.replica import Replica
from p2ptrain.diloco.schedule import global_progress, learning_rate
from p2ptrain.diloco.state import Fragment
from p2ptrain.diloco.trainer import make_optimizer
from p2ptrain.run import NO_DIGEST, RunSpec, load_spec
from p2ptrain.state import Blobs, RunFolder
from p2ptrain.tasks import LocalOptions, Task, open_task, shard_seed
from tests.swarm.lab import Lab, write_spec
from tests.unit.diloco.reference import decode, encode, norm_bounds, outer_step, weighted_sum


@dataclass
class Worker:
    """One simulated peer."""

    task: Task
    optimizer: torch.optim.Optimizer
    merged: int = 0
    since: int = 0
    residuals: dict[int, torch.Tensor] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    locals: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.task.model.named_parameters())


def simulate(spec: RunSpec, peers: Sequence[str]) -> list[Fragment]:
    """Streaming DiLoCo in one loop, without states, chains or messages: the global fragments at the end."""
    method, count = spec.method, spec.method.fragments
    workers = []
    for peer in sorted(peers):
        task = open_task(spec, LocalOptions(device="cpu"))
        task.load_data(shard_seed(spec.digest, peer))
        workers.append(Worker(task, make_optimizer(task.model, method)))
    layout = Layout.of({name: p.shape for name, p in workers[0].tensors.items()}, count)
    world = [Fragment.initial(layout.gather(workers[0].tensors, f).numpy()) for f in range(count)]
    due: dict[int, int] = {}
    fresh: dict[int, Fragment] = {}

    def merge_due(step: int) -> None:
        for height in [height for height, at in due.items() if step - at >= int(method.overlap)]:
            del due[height]
            index = height % count
            for worker in workers:
                theta = torch.tensor(fresh[height].theta.values)
                local = layout.gather(worker.tensors, index)
                merged = merge(method.merge, local, theta, method.alpha, worker.locals.get(index))
                layout.scatter(merged, worker.tensors, index)
                worker.merged = height

    for step in range(1, method.total_steps + 1):
        for worker in workers:
            for group in worker.optimizer.param_groups:
                group["lr"] = learning_rate(method, global_progress(method, worker.merged, worker.since))
            worker.task.loss(step - 1).backward()
            torch.nn.utils.clip_grad_norm_(worker.task.model.parameters(), method.clip_norm)
            worker.optimizer.step()
            worker.optimizer.zero_grad()
            worker.since += 1
            for f in range(count):
                worker.tokens[f] = worker.tokens.get(f, 0) + worker.task.tokens_per_step
                worker.steps[f] = worker.steps.get(f, 0) + 1
        merge_due(step)
        if step % method.steps_per_round == 0:
            height = step // method.steps_per_round
            index = height % count
            vectors, tokens, steps = [], [], []
            for worker in workers:
                local = layout.gather(worker.tensors, index)
                delta = torch.tensor(world[index].theta.values) - local + worker.residuals.get(index, 0.0)
                vectors.append(decode(method.codec, encode(method.codec, delta.numpy()), len(delta)))
                worker.residuals[index] = delta - torch.from_numpy(vectors[-1])
                worker.locals[index] = local
                tokens.append(worker.tokens.pop(index))
                steps.append(worker.steps.pop(index))
                worker.since = 0
            bounds = norm_bounds(vectors, steps, spec.limits.norm_bound)
            factors = [part / sum(tokens) * bound for part, bound in zip(tokens, bounds, strict=True)]
            mean = weighted_sum(vectors, factors)
            world[index] = fresh[height] = outer_step(world[index], mean, method.outer_lr, method.outer_momentum)
            due[height] = step
            merge_due(step)
    return world


def final_fragments(folder: Path) -> list[Fragment]:
    """What a stopped peer has on disk."""
    opened = RunFolder.open(folder, lock=False)
    try:
        task = open_task(opened.spec, LocalOptions(device="cpu"))
        layout = Layout.of({n: p.shape for n, p in task.model.named_parameters()}, opened.spec.method.fragments)
        head = opened.ledger.head
        assert head != NO_DIGEST
        return list(Replica(opened, layout, Blobs()).state_at(head).fragments)
    finally:
        opened.close()


@pytest.mark.parametrize(
    ("overlap", "fragments", "merge_rule", "codec"),
    [
        (3, 2, "blend", "e3m0"),
        pytest.param(0, 1, "overwrite", "fp32", marks=pytest.mark.long),
        pytest.param(5, 2, "carry", "int8", marks=pytest.mark.long),
    ],
)
def test_two_real_peers_equal_a_simulation(lab: Lab, overlap: int, fragments: int, merge_rule: str, codec: str) -> None:
    path = write_spec(
        lab.home,
        inner_steps=8,
        fragments=fragments,
        overlap=overlap,
        merge=merge_rule,
        codec=codec,
        total_steps=64,
        min_peers=2,
    )
    first = lab.found(path)
    second = lab.join(first)
    ends = [peer.wait_for("stopped") for peer in (first, second)]
    assert ends[0]["state"] == ends[1]["state"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = simulate(load_spec(str(path)), [first.id, second.id])
    finally:
        torch.set_num_threads(threads)
    assert first.exit_code() == 0
    for found, wanted in zip(final_fragments(first.folder), expected, strict=True):
        assert np.array_equal(found.theta.values, wanted.theta.values)
        assert np.array_equal(found.momentum.values, wanted.momentum.values)
