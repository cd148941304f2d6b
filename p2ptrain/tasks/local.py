"""The volunteer's options, and whether this machine can do what they ask for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from p2ptrain.errors import DataError, SpecError
from p2ptrain.text import first_line


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """What each volunteer decides for this machine alone."""

    device: str = "auto"
    """'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', 'mps'."""
    batch_size: int | None = 8
    """Sequences or examples per inner step; None: not measured yet."""
    autocast: bool = False
    """Compute in bfloat16 where that is safe; the weights stay float32."""
    compile: bool = False
    model: str | None = None
    """A folder to load instead of the pretrained model that the spec names."""
    data: tuple[str, ...] = ()
    """Files to read instead of those that the spec names."""


def open_device(options: LocalOptions) -> torch.device:
    """Open the device that the volunteer asks for.

    Raises:
        DataError: there is no such device, or torch.compile does not work on it.
        SpecError: the device has no bfloat16 autocast.
    """
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except Exception as error:  # of torch: each kind of device fails in its own way
        next_step = "choose another --device, e.g. cpu"
        raise DataError(f"can't use the device {name!r}", first_line(error), next_step) from None
    if options.autocast and not torch.amp.is_autocast_available(device.type):
        raise SpecError(f"--autocast: the device {name!r} can't compute in bfloat16", "", "leave out --autocast")
    if options.compile:
        _check_compiler(device)
    return device


def _check_compiler(device: torch.device) -> None:
    """Compile something small now: torch.compile itself begins with the first batch, too late to find that it can't."""
    try:
        torch.compile(lambda x: 2 * x + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of torch, of the compiler, or of the system
        raise DataError(
            "--compile: torch.compile does not work on this machine",
            first_line(error),
            "install a C++ compiler (g++ or clang), or leave out --compile",
        ) from None
