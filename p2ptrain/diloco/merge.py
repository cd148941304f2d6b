"""How new global weights θ enter the training weights of a peer that has gone on training meanwhile.

    blend      local ← α·local + (1−α)·θ          the paper's rule (arXiv 2501.18512, equation 3)
    carry      local ← θ + (local − reference)    what was learnt since the reference is kept whole
    overwrite  local ← θ                          plain DiLoCo, when nothing was learnt meanwhile

The reference is the peer's training weights at its contribution if the commit lists that contribution, else the global
weights that the peer merged last. So work that is in θ already is not counted twice, and other work is not lost.
"""

from __future__ import annotations

from typing import Literal

import torch

MergeRule = Literal["blend", "carry", "overwrite"]


def merge(
    rule: MergeRule, local: torch.Tensor, theta: torch.Tensor, alpha: float, reference: torch.Tensor | None
) -> torch.Tensor:
    """The training weights after the merge: 1-D float32, like all three arguments. Only "carry" needs `reference`."""
    match rule:
        case "blend":
            return alpha * local + (1 - alpha) * theta
        case "carry":
            assert reference is not None
            return theta + (local - reference)
        case "overwrite":
            return theta
