"""What other processes do on this machine."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from p2ptrain.errors import DataError, SpecError
from p2ptrain.peer.busy import GpuProbe, cpu_use, gpu_use, open_probes

ME = os.getpid()


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([], ""),
        ([(ME, 99)], ""),
        ([(ME, 60), (7, 3)], ""),
        ([(ME, 50), (7, 40)], "40%"),
        ([(7, 6), (8, 6)], "12%"),
        ([(7, 40), (7, 60)], "60%"),
        ([(7, 90), (8, 90)], "100%"),
        ([(7, 4_000_000_000)], ""),
    ],
)
def test_what_others_take_of_a_gpu_is_said_if_it_is_more_than_a_desktop_takes(
    samples: list[tuple[int, int]], said: str
) -> None:
    told = gpu_use(samples, ME)
    assert said in told
    assert bool(told) == bool(said)


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.0, ""), (0.3, "30%"), (0.24, ""), (0.25, "25%"), (1.0, "100%")],
)
def test_what_others_take_of_the_cores_is_said_if_it_is_more_than_a_quarter(share: float, said: str) -> None:
    told = cpu_use(share)
    assert said in told
    assert bool(told) == bool(said)


def test_a_gpu_that_is_not_there_is_not_watched() -> None:
    with pytest.raises(SpecError, match="does not train on an NVIDIA GPU"):
        open_probes(["cpu-busy", "gpu-busy"], torch.device("cpu"))
    assert set(open_probes(["cpu-busy"], torch.device("cpu"))) == {"cpu-busy"}


class Driver(ModuleType):
    """NVIDIA's library with one GPU, whose users the test chooses."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotFound(NVMLError):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.listed: list[int] = [ME]
        self.samples: list[Any] = []
        self.asked: list[int] = []

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-one"
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, _gpu: str) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self.listed]

    def nvmlDeviceGetProcessUtilization(self, _gpu: str, since: int) -> list[Any]:
        self.asked.append(since)
        if not self.samples:
            raise self.NVMLError_NotFound
        return [SimpleNamespace(pid=pid, smUtil=share, timeStamp=stamp) for pid, share, stamp in self.samples]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", found)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch, "zeros", lambda *size, device: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="one"))
    return found


def test_the_driver_is_asked_for_what_is_new(driver: Driver) -> None:
    probe = GpuProbe(torch.device("cuda"))
    assert probe() == ""
    driver.samples = [(ME, 90, 100), (7, 30, 120)]
    assert probe() == "others use the GPU (30%)"
    driver.samples = []
    assert probe() == ""
    assert driver.asked == [0, 0, 120]


def test_a_driver_that_does_not_list_this_process_can_not_tell_it_from_others(driver: Driver) -> None:
    driver.listed = [1, 2]
    with pytest.raises(DataError, match="can't tell itself from other processes"):
        GpuProbe(torch.device("cuda"))


def test_without_the_library_it_is_said_how_to_get_it(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(DataError, match="management library") as refused:
        GpuProbe(torch.device("cuda"))
    assert "p2ptrain[gpu]" in refused.value.next_step
