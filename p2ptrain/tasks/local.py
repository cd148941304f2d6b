"""What only this volunteer cares about, and whether this machine can do it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from p2ptrain.errors import DataError, SpecError


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """What only this volunteer cares about."""

    device: str = "auto"
    """'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', 'mps'."""
    batch_size: int | None = 8
    """Sequences or examples per inner step; None: to be found out."""
    autocast: bool = False
    """Compute in bf16 where that is safe; weights stay float32."""
    compile: bool = False
    model: str | None = None
    """A folder to load instead of the pretrained model that the spec names."""
    data: tuple[str, ...] = ()
    """Files to read instead of those that the spec names."""


def open_device(options: LocalOptions) -> torch.device:
    """The device that was asked for.

    Raises:
        DataError: it is not there, or can't compile.
        SpecError: it has no bf16 autocast.
    """
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DataError(
            f"the device {name!r} can't be used", str(error).splitlines()[0], "choose another --device, e.g. cpu"
        ) from None
    if options.autocast and not torch.amp.is_autocast_available(device.type):
        raise SpecError(f"--autocast: the device {name!r} has no bf16 autocast", "", "leave --autocast out")
    if options.compile:
        _check_compiler(device)
    return device


def _check_compiler(device: torch.device) -> None:
    """torch.compile works when the first batch is there, which is too late to find that it can't."""
    try:
        torch.compile(lambda x: 2 * x + 1)(torch.zeros(8, device=device))
    except RuntimeError as error:  # torch's base of everything that goes wrong there
        raise DataError(
            "--compile: torch.compile does not work on this machine",
            str(error).splitlines()[0],
            "install a C++ compiler (g++ or clang), or leave --compile out",
        ) from None
