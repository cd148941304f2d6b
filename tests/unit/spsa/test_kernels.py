"""Every implementation of the kernels has the reference's bits, and order, batching and taking back leave none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import SpecError
from p2ptrain.spsa.kernels import Kernels, kernels_for
from p2ptrain.spsa.kernels.cpu import CpuKernels
from p2ptrain.spsa.kernels.plain import PlainKernels
from p2ptrain.spsa.signs import TILE, signs

TILES = 5
KINDS = torch.tensor([0, 0, 1, 2, 1], dtype=torch.uint8)
STEPS = torch.tensor([2.0**-28, 2.0**-30, 2.0**-20])
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where Triton's kernels run; without a GPU in its interpreter."""


@pytest.fixture(params=["cpu", "plain", "cuda"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    match request.param:
        case "cpu":
            return CpuKernels()
        case "plain":
            return PlainKernels()
    pytest.importorskip("triton", reason="Triton is made for Linux only")
    from p2ptrain.spsa.kernels.cuda import CudaKernels

    return OnItsDevice(CudaKernels())


class OnItsDevice:
    """Kernels that work on another device's memory, called with the host's."""

    def __init__(self, inner: Kernels) -> None:
        self._inner = inner

    def add(self, master: torch.Tensor, kinds: torch.Tensor, keys: Sequence[int], quanta: torch.Tensor) -> None:
        there = master.to(DEVICE)
        self._inner.add(there, kinds.to(DEVICE), keys, quanta)
        master.copy_(there)

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
        weights, there = master.to(DEVICE), out.to(DEVICE)
        self._inner.perturb(weights, kinds.to(DEVICE), steps, key, amplitude, there, keys, quanta)
        master.copy_(weights)
        out.copy_(there)


def random_master(seed: int) -> torch.Tensor:
    numbers = np.random.default_rng(seed).integers(-(2**31), 2**31, TILES * TILE)
    return torch.from_numpy(numbers.astype(np.int32))


def some_records(count: int, seed: int = 0) -> tuple[list[int], torch.Tensor]:
    generator = np.random.default_rng([seed, count])
    keys = [int(key) for key in generator.integers(0, 2**64, count, dtype=np.uint64)]
    quanta = generator.integers(-(2**27), 2**27, (count, 3)).astype(np.int32)
    return keys, torch.from_numpy(quanta)


def by_the_formula(master: torch.Tensor, keys: list[int], quanta: torch.Tensor) -> torch.Tensor:
    total = master.long().view(TILES, TILE)
    for key, row in zip(keys, quanta.long(), strict=True):
        total = total + row[KINDS.long()].unsqueeze(1) * signs(key, 0, TILES)
    return torch.from_numpy((total.flatten().numpy() & 0xFFFFFFFF).astype(np.uint32).view(np.int32))


@pytest.mark.parametrize("count", [1, 7, 8, 13, 64, 65, 130])
def test_records_are_added_as_the_formula_says_and_wrap(kernels: Kernels, count: int) -> None:
    if count > 13 and isinstance(kernels, OnItsDevice) and DEVICE == "cpu":
        pytest.skip("Triton's interpreter takes seconds for these")
    keys, quanta = some_records(count)
    master = random_master(1)
    expected = by_the_formula(master, keys, quanta)
    kernels.add(master, KINDS, keys, quanta)
    assert torch.equal(master, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("amplitude", "records"), [(1e-3, 0), (-1e-3, 1), (0.0, 0), (7.0, 3)])
def test_a_working_copy_has_the_records_and_is_rounded_as_the_formula_says(
    kernels: Kernels, dtype: torch.dtype, amplitude: float, records: int
) -> None:
    keys, quanta = some_records(records)
    master = random_master(2)
    out = torch.empty(TILES * TILE, dtype=dtype)
    expected_master = by_the_formula(master, keys, quanta)
    kernels.perturb(master, KINDS, STEPS, 99, amplitude, out, keys, quanta)
    assert torch.equal(master, expected_master)
    weights = master.numpy().astype(np.float32).reshape(TILES, TILE) * STEPS[KINDS.long()].numpy()[:, None]
    moved = weights + np.float32(amplitude) * signs(99, 0, TILES).numpy().astype(np.float32)
    expected = torch.from_numpy(moved).to(dtype).flatten()
    assert torch.equal(out, expected)


def test_one_thread_or_many(kernels: Kernels) -> None:
    keys, quanta = some_records(9)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            master = random_master(3)
            kernels.add(master, KINDS, keys, quanta)
            results.append(master)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results)


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(12)), cuts=st.sets(st.integers(1, 11)), taken=st.sets(st.integers(0, 11)))
def test_any_order_any_batching_and_taking_back_give_the_same_bits(
    order: list[int], cuts: set[int], taken: set[int]
) -> None:
    keys, quanta = some_records(12)
    kernels = CpuKernels()
    at_once, one_by_one = random_master(4), random_master(4)
    kept = [k for k in range(12) if k not in taken]
    kernels.add(at_once, KINDS, [keys[k] for k in kept], quanta[kept])
    edges = [0, *sorted(cuts), 12]
    for start, stop in pairwise(edges):
        some = order[start:stop]
        kernels.add(one_by_one, KINDS, [keys[k] for k in some], quanta[some])
    back = sorted(taken, reverse=True)
    kernels.add(one_by_one, KINDS, [keys[k] for k in back], -quanta[back])
    assert torch.equal(at_once, one_by_one)


def test_no_records_change_nothing(kernels: Kernels) -> None:
    master = random_master(5)
    kernels.add(master, KINDS, [], torch.empty((0, 3), dtype=torch.int32))
    assert torch.equal(master, random_master(5))


# A machine without the libraries --------------------------------------------------------------------------------------


def test_without_numba_the_reference_takes_its_place(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert isinstance(kernels_for(torch.device("cpu")), PlainKernels)
    assert "pip install --upgrade numba" in caplog.text


def test_without_triton_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(SpecError, match="Triton") as refused:
        kernels_for(torch.device("cuda"))
    assert refused.value.why
