"""The two passes over the weights of which one-byte SPSA consists. They give the same bits on every device.

    add:      master[i] += Σ_k quanta[k] · z(key_k, i)               wrapping int32, any number of records in one pass
    perturb:  out[i] = float(master[i]) · 2^exponent + amplitude · z(key, i)

`master` is the flat int32 vector of whole tiles, and z is the sign ±1 (see `signs`). A tile belongs to one tensor, and
`kinds` says which of the few exponents that tensor has. float(master) rounds once to float32, the product with the
power of two is exact, the sum rounds once, and rounding to bfloat16 is to nearest, ties to even. There are three
implementations: `cpu` (numba), `cuda` (Triton), and `plain` (torch's integers), the reference, for all other devices.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Protocol

import torch

from p2ptrain.errors import SpecError
from p2ptrain.text import first_line

log = logging.getLogger(__name__)


class Kernels(Protocol):
    """What each implementation gives."""

    def add(self, master: torch.Tensor, kinds: torch.Tensor, keys: Sequence[int], quanta: torch.Tensor) -> None:
        """Add records to the master weights, in place.

        Args:
            master: int32, (tiles · 4096).
            kinds: each tile's column in `quanta`: uint8, (tiles).
            keys: the 64-bit key of each record's perturbation.
            quanta: int32, (records, columns), on the CPU. Negative quanta take records back.
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
        """Add records to the master weights, as `add` does, then write the working copy. On CPUs, where reading memory
        takes most of the time, one pass does both.

        Args:
            steps: 2^exponent of each column: float32, (columns), on the CPU.
            key: the 64-bit key of the perturbation.
            amplitude: ε, −ε or 0.
            out: the working copy, float32 or bfloat16, (tiles · 4096).
        """


def kernels_for(device: torch.device) -> Kernels:
    """The fastest kernels for a device. Without a working numba, a CPU gets the slow ones. Raises SpecError if the
    device is a GPU, and Triton does not work."""
    if device.type == "cpu":
        if not (problem := _problem_of("numba")):
            from p2ptrain.spsa.kernels.cpu import CpuKernels

            return CpuKernels()
        log.warning(
            "numba does not work here (%s), so each step takes much longer: pip install --upgrade numba", problem
        )
    if device.type == "cuda":
        if problem := _problem_of("triton"):
            step = "pip install triton, or use --device cpu"
            raise SpecError("one-byte SPSA on a GPU needs Triton, which does not work here", problem, step)
        from p2ptrain.spsa.kernels.cuda import CudaKernels

        return CudaKernels()
    from p2ptrain.spsa.kernels.plain import PlainKernels

    return PlainKernels()


def _problem_of(library: str) -> str:
    """Why a library can't be imported; empty if it can be."""
    try:
        importlib.import_module(library)
    except Exception as error:  # it is missing, or does not fit to numpy, to the driver or to the processor
        return first_line(error)
    return ""
