"""The batch size is doubled for as long as it fits and pays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.tasks.batch import LONGEST_SECONDS, MOST_ROWS, find_batch_size, is_out_of_memory


class Machine:
    """Steps cost so much, and so much more for each row; `room` rows fit."""

    def __init__(self, fixed: float = 1.0, each: float = 0.01, room: int = 10**9) -> None:
        self.fixed, self.each, self.room, self.tried = fixed, each, room, list[int]()

    def measure(self, size: int) -> float | None:
        self.tried.append(size)
        return None if size > self.room else self.fixed + self.each * size


def test_the_largest_that_fits_is_taken_where_larger_is_faster() -> None:
    machine = Machine(room=100)
    assert find_batch_size(machine.measure) == 64
    assert machine.tried == [1, 2, 4, 8, 16, 32, 64, 128], "what did not fit is not tried again"


def test_where_larger_is_no_faster_it_stays_small() -> None:
    assert find_batch_size(Machine(fixed=0.0, each=0.1).measure) == 1
    assert find_batch_size(Machine(fixed=0.1, each=0.1).measure) <= 16


def test_not_even_one_row() -> None:
    assert find_batch_size(Machine(room=0).measure) == 0


def test_there_is_an_end() -> None:
    assert find_batch_size(Machine(fixed=1e9, each=0.0).measure) == 1, "one step takes too long to be doubled"
    assert find_batch_size(Machine(fixed=LONGEST_SECONDS / 2, each=0.0).measure) == MOST_ROWS


@given(room=st.integers(1, 5000), fixed=st.floats(0.0, 5.0), each=st.floats(1e-6, 1.0))
def test_what_is_chosen_was_tried_and_fits(room: int, fixed: float, each: float) -> None:
    machine = Machine(fixed, each, room)
    found = find_batch_size(machine.measure)
    assert found in machine.tried
    assert 1 <= found <= min(room, MOST_ROWS)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 400 bytes"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_has_several_names(error: Exception, is_it: bool) -> None:
    assert is_out_of_memory(error) == is_it


def test_torchs_own_error_is_known() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)
