"""How many elements should share a scale? Error against bits on real pseudo-gradients: python -m benchmarks.block_size

The quickstart's model trains for 200 inner steps; what AdamW then changes in 40 more is the pseudo-gradient. The error
is ‖decode(encode(x)) − x‖ / ‖x‖ for one encoding, without error feedback.
"""

from __future__ import annotations

import torch

from benchmarks.report import report
from p2ptrain.diloco.trainer import make_optimizer
from p2ptrain.run import load_spec
from p2ptrain.tasks import LocalOptions, open_task

BLOCKS = (32, 64, 128, 256, 512, 1024, 4096)


def pseudo_gradient() -> torch.Tensor:
    """θ before minus θ after 40 inner steps, all parameters in one vector."""
    spec = load_spec("quickstart")
    task = open_task(spec, LocalOptions(device="cpu"))
    task.load_data(0)
    optimizer = make_optimizer(task.model, spec.method)
    for step in range(200 + spec.method.inner_steps):
        if step == 200:
            before = torch.cat([p.detach().flatten() for p in task.model.parameters()])
        task.loss(step).backward()
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), spec.method.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    return before - torch.cat([p.detach().flatten() for p in task.model.parameters()])


def e3m0(ratio: torch.Tensor) -> torch.Tensor:
    """Nearest of 0 and ± 2^−6 … 2^0."""
    size = ratio.abs()
    power = torch.exp2(torch.floor(torch.log2((size * 4 / 3).clamp(min=1e-30))).clamp(-6, 0))
    return torch.where(size < 2.0**-7, torch.zeros_like(size), power) * ratio.sign()


def error(vector: torch.Tensor, block: int, scales: str) -> float:
    rows = vector[: len(vector) // block * block].view(-1, block)
    largest = rows.abs().amax(dim=1, keepdim=True)
    if scales == "int4":
        scale = (largest / 7).to(torch.bfloat16).float()
        decoded = (rows / scale).round().clamp(-7, 7) * scale
    else:
        scale = (
            torch.exp2(torch.log2(largest).ceil()) if scales == "power of two" else largest.to(torch.bfloat16).float()
        )
        decoded = e3m0(rows / scale) * scale
    return float((decoded - rows).norm() / rows.norm())


def main() -> None:
    vector = pseudo_gradient()
    rows = [
        {
            "block": block,
            "bits, bf16 scale": 4 + 16 / block,
            "e3m0, bf16 scale": error(vector, block, "bf16"),
            "bits, power of two": 4 + 8 / block,
            "e3m0, power of two": error(vector, block, "power of two"),
            "int4, bf16 scale": error(vector, block, "int4"),
        }
        for block in BLOCKS
    ]
    report("block_size", rows, ["relative error of one encoding; int4 is uniform, for comparison"])


if __name__ == "__main__":
    main()
