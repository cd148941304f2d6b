"""`--max-memory`: a run that needs too much is refused before its model is loaded, and a training peer is watched."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import Path
from typing import Literal

import psutil
import torch

from p2ptrain.errors import MemoryLimitError
from p2ptrain.run import RunSpec
from p2ptrain.run.needs import needs_of
from p2ptrain.tasks import LocalOptions
from p2ptrain.tasks.local import open_device
from p2ptrain.tasks.model import count_parameters

TIGHT, FULL = 0.90, 0.97
"""Shares of the limit. From the first on, the peer makes room; from the second on, it stops."""


def check_before_loading(spec: RunSpec, local: LocalOptions, limit: int | None) -> None:
    """Refuse a run that needs more than the limit, and on a GPU forbid torch to take more.

    Args:
        limit: bytes of main memory, and the same number of a GPU's memory; None: no limit.

    Raises:
        MemoryLimitError: the run needs more; the error tells the numbers.
        SpecError, DataError: the model can't be counted.
    """
    if limit is None:
        return
    device = open_device(local)
    parameters, trained = count_parameters(spec, local.model)
    needs = needs_of(spec, parameters, trained, device.type == "cuda")
    for where, least in (("main memory", needs.host), ("GPU memory", needs.device)):
        if least > FULL * limit:
            raise MemoryLimitError(
                f"this run needs about {least / 1e9:.1f} GB of {where}, and --max-memory allows {limit / 1e9:.1f}",
                f"the model has {parameters:,} parameters, {trained:,} of them are trained with {spec.method.name}; "
                "batches need memory, too",
                f"give --max-memory {least / FULL / 1e9 + 0.1:.1f} or more, or join a run with a smaller model",
            )
    if device.type == "cuda":
        in_all = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / in_all), device)


class Memory:
    """The memory that this process and its p2pd use, compared with the limit; see `check_before_loading`."""

    def __init__(self, limit: int | None, device: torch.device) -> None:
        self.limit, self._device = limit, device
        self._process, self._has_peaks = psutil.Process(), sys.platform == "linux"

    def used(self) -> int:
        """Bytes at the peak since the last `forget_peak`: of main memory or of the GPU's, whichever is more."""
        peak = _peak() if self._has_peaks else 0
        host: int = max(peak, _rss(self._process)) + sum(map(_rss, _children(self._process)))
        if self._device.type == "cuda":
            return int(max(host, torch.cuda.max_memory_reserved(self._device)))
        return host

    def forget_peak(self) -> None:
        """Start to measure a new peak."""
        if self._has_peaks:
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:  # some containers forbid it; a peak that stays would count for ever
                self._has_peaks = False
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def room(self) -> float:
        """Bytes of main memory that this process may still take."""
        free: float = 0.8 * psutil.virtual_memory().available
        if self.limit is None:
            return free
        return min(free, TIGHT * self.limit - _rss(self._process))

    def state(self) -> Literal["fine", "tight", "full"]:
        """How near to the limit the peak was since the last call."""
        if self.limit is None:
            return "fine"
        share = self.used() / self.limit
        self.forget_peak()
        return "full" if share >= FULL else "tight" if share >= TIGHT else "fine"

    def make_room(self) -> None:
        """Give back memory that is only kept for later use: dead objects, torch's cache, free pages of the heap."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)


def _peak() -> int:
    """Peak of this process's resident memory in bytes, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error, OSError):  # some containers hide processes
        return list(process.children())
    return []


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended, or may not be looked at
        return 0
