"""`--pause-when`: probes that see whether other programs use the GPU or the CPU."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

import torch

from p2ptrain.errors import DataError, SpecError
from p2ptrain.peer.cores import OthersShare
from p2ptrain.peer.pausing import Probe
from p2ptrain.text import first_line

GPU_SHARE = 10
"""Per cent of a GPU's time. Other programs that take less do not count; showing a desktop takes less."""
CPU_SHARE = 25
"""Per cent of all cores' time. Other programs that take less do not count."""

log = logging.getLogger(__name__)


def open_probes(causes: Iterable[str], device: torch.device) -> dict[str, Probe]:
    """Make a probe for each cause, 'gpu-busy' or 'cpu-busy'. For 'gpu-busy', raises SpecError if this peer's device is
    no NVIDIA GPU, and DataError if the GPU's driver gives no answer."""
    return {cause: GpuProbe(device) if cause == "gpu-busy" else CpuProbe() for cause in causes}


class GpuProbe:
    """Looks at the share of this peer's GPU that other processes use, as NVIDIA's driver counts it."""

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda" or torch.version.cuda is None:
            what, step = (
                "this peer does not train on an NVIDIA GPU",
                "leave the option out, or use --pause-when cpu-busy",
            )
            raise SpecError(f"--pause-when gpu-busy: {what}", f"its device is {device.type}", step)
        try:
            import pynvml
        except ModuleNotFoundError:
            what = "--pause-when gpu-busy needs NVIDIA's management library"
            why, step = "the package nvidia-ml-py is not installed", 'pip install "p2ptrain[gpu]"'
            raise DataError(what, why, step) from None
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            torch.zeros(1, device=device)  # puts this process on the driver's list
            seen = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(self._gpu)}
        except Exception as error:  # of the driver, or of torch
            what, step = "--pause-when gpu-busy: NVIDIA's driver gives no answer", "leave the option out"
            raise DataError(what, first_line(error), step) from None
        if os.getpid() not in seen:
            raise DataError(
                "--pause-when gpu-busy: the peer can't tell itself from other processes on the GPU",
                "the driver does not list this process by its own process id; this happens in containers",
                "run the container with the host's process ids (--pid=host), or leave the option out",
            )
        self._since = 0

    def __call__(self) -> str:
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(self._gpu, self._since)
        except self._nvml.NVMLError_NotFound:
            return ""  # no process has used the GPU since then
        except Exception as error:  # of the driver
            log.warning("NVIDIA's driver does not say who uses the GPU: %s", error)
            return ""
        self._since = max((sample.timeStamp for sample in samples), default=self._since)
        return gpu_use([(sample.pid, sample.smUtil) for sample in samples], os.getpid())


def gpu_use(samples: Iterable[tuple[int, int]], own: int) -> str:
    """What other processes use of the GPU, in words; the empty string if it is little.

    Args:
        samples: (process id, per cent of the GPU's time).
        own: this process's id.
    """
    most: dict[int, int] = {}
    for process, share in samples:
        if process != own and 0 <= share <= 100:
            most[process] = max(most.get(process, 0), share)
    in_all = sum(most.values())
    return f"others use the GPU ({min(100, in_all)}%)" if in_all >= GPU_SHARE else ""


class CpuProbe:
    """Looks at the share of all cores that other processes have used since the last look."""

    def __init__(self) -> None:
        try:
            self._share = OthersShare()
        except Exception as error:  # of psutil: some containers hide other processes, and the system's times
            what, step = "--pause-when cpu-busy: this system does not tell what others use", "leave the option out"
            raise DataError(what, first_line(error), step) from None

    def __call__(self) -> str:
        return cpu_use(self._share())


def cpu_use(share: float) -> str:
    """The share of all cores' time, from 0 to 1, that others use, in words; the empty string if it is little."""
    return f"others use the CPU ({share:.0%})" if 100 * share >= CPU_SHARE else ""
