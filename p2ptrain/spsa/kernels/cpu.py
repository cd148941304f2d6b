"""The kernels for CPUs (equations in `kernels`): numba, compiled on first use and cached on disk.

A pool of ordinary threads runs them, each on tiles of its own. numba's parallel loops are not used: depending on its
threading layer, they forbid a later fork, or end the process if two run at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from p2ptrain.compiled import compiled
from p2ptrain.spsa.signs import BLOCKS, LANES, MULTIPLIERS, ROUNDS, TILE, WEYL

RECORDS_AT_ONCE = 64
"""The Philox words of so many records for one tile are 32 KiB, which stay in the fastest cache."""
_SPANS_PER_THREAD = 4
_TILES_IN_CACHE = 32
"""Half a megabyte of master weights. They are changed and read again before they leave the core's cache."""

_M0, _M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_W0, _W1 = np.uint32(WEYL[0]), np.uint32(WEYL[1])
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


class CpuKernels:
    """See `Kernels`."""

    def add(self, master: torch.Tensor, kinds: torch.Tensor, keys: Sequence[int], quanta: torch.Tensor) -> None:
        _spread(len(kinds), _adding(master, kinds, keys, quanta))

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
        add = _adding(master, kinds, keys, quanta)
        if out.dtype == torch.float32:
            kernel, target = _perturb, out.numpy()
        else:
            kernel, target = _perturb_bf16, out.view(torch.int16).numpy().view(np.uint16)
        given = master.numpy(), kinds.numpy(), steps.numpy(), np.uint64(key), np.float32(amplitude), target

        def work(first: int, last: int) -> None:
            for start in range(first, last, _TILES_IN_CACHE):
                stop = min(start + _TILES_IN_CACHE, last)
                add(start, stop)
                kernel(*given, start, stop)

        _spread(len(kinds), work)


def _adding(
    master: torch.Tensor, kinds: torch.Tensor, keys: Sequence[int], quanta: torch.Tensor
) -> Callable[[int, int], None]:
    """A function that adds the records to tiles `first` to `last` (exclusive)."""
    weights, tiles = master.numpy(), kinds.numpy()
    spans = [slice(at, at + RECORDS_AT_ONCE) for at in range(0, len(keys), RECORDS_AT_ONCE)]
    some = [(np.array(keys[span], dtype=np.uint64), quanta[span].numpy()) for span in spans]

    def work(first: int, last: int) -> None:
        for chosen in some:
            _add(weights, tiles, *chosen, first, last)

    return work


def _spread(tiles: int, work: Callable[[int, int], None]) -> None:
    """Call `work(first, last)` until all tiles are done, on as many threads as torch uses, this one included."""
    threads = torch.get_num_threads()
    if threads == 1:
        work(0, tiles)
        return
    count = min(tiles, _SPANS_PER_THREAD * threads)
    spans = iter([(tiles * span // count, tiles * (span + 1) // count) for span in range(count)])

    def take_spans() -> None:
        for first, last in spans:  # threads share this iterator, and it gives each span once
            work(first, last)

    others = [_pool(threads).submit(take_spans) for _ in range(threads - 1)]
    take_spans()
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="spsa")


@compiled()
def _words(key: np.uint64, tile: int, words: Any) -> None:
    """Compute the 128 words of a tile, see `signs`."""
    for lane in range(BLOCKS):
        block = np.uint64(tile * BLOCKS + lane)
        c0, c1 = np.uint32(block & _LOW), np.uint32(block >> _HALF)
        c2, c3 = np.uint32(0), np.uint32(0)
        k0, k1 = np.uint32(key & _LOW), np.uint32(key >> _HALF)
        for _ in range(ROUNDS):
            p0, p1 = np.uint64(c0) * _M0, np.uint64(c2) * _M1
            c0, c2 = np.uint32(p1 >> _HALF) ^ c1 ^ k0, np.uint32(p0 >> _HALF) ^ c3 ^ k1
            c1, c3 = np.uint32(p1 & _LOW), np.uint32(p0 & _LOW)
            k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
        words[lane], words[BLOCKS + lane] = c0, c1
        words[2 * BLOCKS + lane], words[3 * BLOCKS + lane] = c2, c3


@compiled()
def _add(master: Any, kinds: Any, keys: Any, quanta: Any, first: int, last: int) -> None:
    """master += Σ q · z with q · z = q − 2q · bit: add the sum of all q once, then subtract 2q where the bit is set,
    without a branch.

    numba widens integers to 64 bits. The casts keep them at 32 bits, so that more of them fit into a vector register.
    """
    records = len(keys)
    words = np.empty((records, LANES), np.int32)
    twice = np.empty(records, np.int32)
    top = np.int32(31)
    for tile in range(first, last):
        total = np.int32(0)
        for k in range(records):
            _words(keys[k], tile, words[k])
            q = quanta[k, kinds[tile]]
            total, twice[k] = np.int32(total + q), np.int32(q + q)
        for bit in range(32):
            up = np.int32(31 - bit)
            start = tile * TILE + bit * LANES
            row = master[start : start + LANES]
            for i in range(LANES):
                row[i] = np.int32(row[i] + total)
            k = 0
            while k + 8 <= records:  # eight records share one reading and writing of the row
                for i in range(LANES):
                    x = row[i]
                    x -= np.int32(np.int32(np.int32(words[k, i] << up) >> top) & twice[k])
                    x -= np.int32(np.int32(np.int32(words[k + 1, i] << up) >> top) & twice[k + 1])
                    x -= np.int32(np.int32(np.int32(words[k + 2, i] << up) >> top) & twice[k + 2])
                    x -= np.int32(np.int32(np.int32(words[k + 3, i] << up) >> top) & twice[k + 3])
                    x -= np.int32(np.int32(np.int32(words[k + 4, i] << up) >> top) & twice[k + 4])
                    x -= np.int32(np.int32(np.int32(words[k + 5, i] << up) >> top) & twice[k + 5])
                    x -= np.int32(np.int32(np.int32(words[k + 6, i] << up) >> top) & twice[k + 6])
                    x -= np.int32(np.int32(np.int32(words[k + 7, i] << up) >> top) & twice[k + 7])
                    row[i] = np.int32(x)
                k += 8
            while k < records:
                for i in range(LANES):
                    row[i] = np.int32(row[i] - (np.int32(np.int32(words[k, i] << up) >> top) & twice[k]))
                k += 1


@compiled()
def _moved(master: Any, start: int, step: np.float32, words: Any, bit: int, amplitude: np.float32, moved: Any) -> None:
    """Write the working copy of the 128 weights that share a bit."""
    for i in range(LANES):
        shift = -amplitude if (words[i] >> np.uint32(bit)) & np.uint32(1) else amplitude
        moved[i] = np.float32(np.float32(master[start + i]) * step) + shift


@compiled()
def _perturb(
    master: Any, kinds: Any, steps: Any, key: np.uint64, amplitude: np.float32, out: Any, first: int, last: int
) -> None:
    words = np.empty(LANES, np.uint32)
    for tile in range(first, last):
        _words(key, tile, words)
        step = steps[kinds[tile]]
        for bit in range(32):
            start = tile * TILE + bit * LANES
            _moved(master, start, step, words, bit, amplitude, out[start : start + LANES])


@compiled()
def _perturb_bf16(
    master: Any, kinds: Any, steps: Any, key: np.uint64, amplitude: np.float32, out: Any, first: int, last: int
) -> None:
    words, moved = np.empty(LANES, np.uint32), np.empty(LANES, np.float32)
    bits = moved.view(np.uint32)
    for tile in range(first, last):
        _words(key, tile, words)
        step = steps[kinds[tile]]
        for bit in range(32):
            start = tile * TILE + bit * LANES
            _moved(master, start, step, words, bit, amplitude, moved)
            for i in range(LANES):  # round to nearest, ties to even; the weights are finite
                odd = (bits[i] >> np.uint32(16)) & np.uint32(1)
                out[start + i] = np.uint16((bits[i] + np.uint32(0x7FFF) + odd) >> np.uint32(16))
