"""The two passes over memory that one-byte SPSA consists of, with the same bits on every device.

    add:      master[i] += Σ_k quanta[k] · sign(key_k, i)            wrapping int32, any number of records in one pass
    perturb:  out[i] = float(master[i]) · 2^exponent + amplitude · sign(key, i)

`master` is the flat int32 vector of whole tiles (see `signs`); a tile belongs to one tensor, and `kinds` says which of
the few exponents that tensor has. `float(master)` rounds once to float32, the power of two is exact, the sum rounds
once, and rounding to bfloat16 is to nearest, ties to even. Three implementations: `cpu` (numba), `cuda` (Triton),
`plain` (torch's integers, for any other device and as the reference).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from p2ptrain.errors import SpecError


class Kernels(Protocol):
    """One implementation."""

    def add(self, master: torch.Tensor, kinds: torch.Tensor, keys: Sequence[int], quanta: torch.Tensor) -> None:
        """Add records to the master weights, in place.

        Args:
            master: int32, (tiles · 4096).
            kinds: uint8, (tiles), each tile's column in `quanta`.
            keys: of the records' perturbations, 64 bits.
            quanta: int32 on the host, (records, kinds); negated, it takes the records back.
        """

    def perturb(
        self,
        master: torch.Tensor,
        kinds: torch.Tensor,
        steps: torch.Tensor,
        key: int,
        amplitude: float,
        out: torch.Tensor,
        keys: Sequence[int],
        quanta: torch.Tensor,
    ) -> None:
        """Add records to the master weights, as `add` does, then write the working copy at `amplitude` times the
        perturbation; where memory is what takes the time, both in one pass.

        Args:
            steps: float32 on the host, (kinds): 2^exponent.
            amplitude: ε, −ε or 0.
            out: float32 or bfloat16, (tiles · 4096).
        """


def kernels_for(device: torch.device) -> Kernels:
    """The fastest that this device has.

    Raises:
        SpecError: a GPU, but Triton is missing.
    """
    if device.type == "cpu":
        from p2ptrain.spsa.kernels.cpu import CpuKernels

        return CpuKernels()
    if device.type == "cuda":
        try:
            from p2ptrain.spsa.kernels.cuda import CudaKernels
        except ImportError:
            raise SpecError(
                "one-byte SPSA on a GPU needs Triton", "it is not installed", "pip install triton, or use --device cpu"
            ) from None
        return CudaKernels()
    from p2ptrain.spsa.kernels.plain import PlainKernels

    return PlainKernels()
