"""When things happen: which fragment a height averages, when it is due, and the inner learning rate.

Streaming DiLoCo (arXiv 2501.18512, algorithm 2) averages fragment p at the inner steps t with (t − t_p) mod H = 0,
its offsets t_p spread evenly over H. With t_p = p·H/P that is: at every multiple of H/P one fragment is due, in turn.
Height k is the k-th of these rounds and averages fragment k mod P.
"""

from __future__ import annotations

import math

from p2ptrain.run import DiLoCoMethod


def fragment_of(height: int, fragments: int) -> int:
    """The fragment that round `height` averages."""
    return height % fragments


def learning_rate(method: DiLoCoMethod, step: float) -> float:
    """The inner learning rate at `step` inner steps of global progress.

    Rises linearly from 0 over `warmup_steps`; then stays, or falls along half a cosine to `lr_floor · lr` at
    `total_steps`.
    """
    if step < method.warmup_steps:
        return method.lr * (step + 1) / (method.warmup_steps + 1)
    if method.schedule == "constant" or method.total_steps is None:
        return method.lr
    done = min(1.0, (step - method.warmup_steps) / (method.total_steps - method.warmup_steps))
    return method.lr * (method.lr_floor + (1 - method.lr_floor) * 0.5 * (1 + math.cos(math.pi * done)))


def global_progress(method: DiLoCoMethod, height: int, steps_since_contribution: int) -> float:
    """Inner steps of global progress: what the swarm has committed, plus this peer's own steps towards the next
    round, at most one round's worth. A newcomer so starts at the learning rate that the others are at."""
    return height * method.steps_per_round + min(steps_since_contribution, method.steps_per_round)
