"""Which fragment a height averages, and the inner learning rate.

    fragment(k) = k mod P                        round k, due after k·H/P inner steps
    lr(s)       = lr·(s + 1)/(warmup + 1)        for s < warmup inner steps of global progress, then constant or
                  lr·(floor + (1 − floor)·½(1 + cos πu)),    u = min(1, (s − warmup)/(total − warmup))

Streaming DiLoCo (arXiv 2501.18512, algorithm 2) averages fragment p at the inner steps t with (t − t_p) mod H = 0.
Here t_p = p·H/P, so that every H/P inner steps one fragment is due, in turn.
"""

from __future__ import annotations

import math

from p2ptrain.run import DiLoCoMethod


def fragment_of(height: int, fragments: int) -> int:
    """The fragment that round `height` averages."""
    return height % fragments


def learning_rate(method: DiLoCoMethod, step: float) -> float:
    """The inner learning rate at `step` inner steps of global progress: lr(s) above."""
    if step < method.warmup_steps:
        return method.lr * (step + 1) / (method.warmup_steps + 1)
    if method.schedule == "constant" or method.total_steps is None:
        return method.lr
    done = min(1.0, (step - method.warmup_steps) / (method.total_steps - method.warmup_steps))
    return method.lr * (method.lr_floor + (1 - method.lr_floor) * 0.5 * (1 + math.cos(math.pi * done)))


def global_progress(method: DiLoCoMethod, height: int, steps_since_contribution: int) -> float:
    """Inner steps of global progress: those of the committed rounds, and this peer's own towards the next one, at most
    one round's worth. So a newcomer starts at the learning rate of the others."""
    return height * method.steps_per_round + min(steps_since_contribution, method.steps_per_round)
