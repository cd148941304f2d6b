"""The kernels for GPUs (equations in `kernels`), in Triton. One program handles one tile, and the tile's 4096 weights
stay in registers for all records.

Word w of block j serves the parameters 128·bit + 32·w + j of a tile. So each of the four words has its own accumulator,
(bits, blocks), and no block is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from p2ptrain.spsa.signs import BLOCKS, LANES, MULTIPLIERS, ROUNDS, TILE, WEYL

_M0, _M1 = tl.constexpr(MULTIPLIERS[0]), tl.constexpr(MULTIPLIERS[1])
_W0, _W1 = tl.constexpr(WEYL[0]), tl.constexpr(WEYL[1])
_ROUNDS, _TILE, _LANES, _BLOCKS = tl.constexpr(ROUNDS), tl.constexpr(TILE), tl.constexpr(LANES), tl.constexpr(BLOCKS)


class CudaKernels:
    """See `Kernels`."""

    def add(self, master: torch.Tensor, kinds: torch.Tensor, keys: Sequence[int], quanta: torch.Tensor) -> None:
        if len(keys):
            halves, rows = _halves(keys, master.device), quanta.to(master.device).contiguous()
            _add[(len(kinds),)](master, kinds, halves, rows, len(keys), rows.shape[1])

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
        self.add(master, kinds, keys, quanta)
        shift = torch.tensor([amplitude], dtype=torch.float32, device=master.device)
        half = out.dtype == torch.bfloat16
        where = out.view(torch.int16) if half else out
        _perturb[(len(kinds),)](
            master, kinds, steps.to(master.device), _halves([key], master.device), shift, where, half
        )


def _halves(keys: Sequence[int], device: torch.device) -> torch.Tensor:
    """The lower and upper 32 bits of each key: int32, (records, 2)."""
    words = np.array(keys, dtype=np.uint64).view(np.uint32).view(np.int32).reshape(-1, 2)
    return torch.from_numpy(words.copy()).to(device)


def _jit(function: Callable[..., None]) -> Any:
    return triton.jit(function)


@_jit
def _philox(tile, k0, k1):  # type: ignore[no-untyped-def]
    """The four words of each block of a tile: uint32, (blocks) each."""
    block = tile.to(tl.uint64) * _BLOCKS + tl.arange(0, _BLOCKS).to(tl.uint64)
    c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    c2, c3 = c0 * 0, c0 * 0
    k0, k1 = k0.to(tl.uint32, bitcast=True), k1.to(tl.uint32, bitcast=True)
    for _ in tl.static_range(_ROUNDS):
        p0, p1 = c0.to(tl.uint64) * _M0, c2.to(tl.uint64) * _M1
        c0, c2 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = p1.to(tl.uint32), p0.to(tl.uint32)
        k0, k1 = (k0 + _W0).to(tl.uint32), (k1 + _W1).to(tl.uint32)
    return c0, c1, c2, c3


@_jit
def _signs(word, bit):  # type: ignore[no-untyped-def]
    """The signs ±1 that a word gives: int32, (bits, blocks)."""
    return 1 - 2 * ((word[None, :] >> bit) & 1).to(tl.int32)


@_jit
def _add(master, kinds, keys, quanta, records, columns):  # type: ignore[no-untyped-def]
    tile = tl.program_id(0)
    kind = tl.load(kinds + tile).to(tl.int32)
    bit = tl.arange(0, 32)[:, None]
    at = master + tile.to(tl.int64) * _TILE + bit * _LANES + tl.arange(0, _BLOCKS)[None, :]
    a0, a1 = tl.load(at), tl.load(at + _BLOCKS)
    a2, a3 = tl.load(at + 2 * _BLOCKS), tl.load(at + 3 * _BLOCKS)
    for k in range(records):
        w0, w1, w2, w3 = _philox(tile, tl.load(keys + 2 * k), tl.load(keys + 2 * k + 1))
        q = tl.load(quanta + k * columns + kind)
        a0 += q * _signs(w0, bit.to(tl.uint32))
        a1 += q * _signs(w1, bit.to(tl.uint32))
        a2 += q * _signs(w2, bit.to(tl.uint32))
        a3 += q * _signs(w3, bit.to(tl.uint32))
    tl.store(at, a0)
    tl.store(at + _BLOCKS, a1)
    tl.store(at + 2 * _BLOCKS, a2)
    tl.store(at + 3 * _BLOCKS, a3)


@_jit
def _perturb(master, kinds, steps, key, amplitude, out, half: tl.constexpr):  # type: ignore[no-untyped-def]
    tile = tl.program_id(0)
    step = tl.load(steps + tl.load(kinds + tile).to(tl.int32))
    shift = tl.load(amplitude)
    bit = tl.arange(0, 32)[:, None]
    at = tile.to(tl.int64) * _TILE + bit * _LANES + tl.arange(0, _BLOCKS)[None, :]
    w0, w1, w2, w3 = _philox(tile, tl.load(key), tl.load(key + 1))
    _put(master, out, at, step, shift, w0, bit, half)
    _put(master, out, at + _BLOCKS, step, shift, w1, bit, half)
    _put(master, out, at + 2 * _BLOCKS, step, shift, w2, bit, half)
    _put(master, out, at + 3 * _BLOCKS, step, shift, w3, bit, half)


@_jit
def _put(master, out, at, step, shift, word, bit, half: tl.constexpr):  # type: ignore[no-untyped-def]
    # The product is exact, so it does not matter whether the compiler fuses it with the sum.
    weights = tl.load(master + at).to(tl.float32) * step
    moved = weights + shift * _signs(word, bit.to(tl.uint32)).to(tl.float32)
    if half:  # round to nearest, ties to even, in integers: Triton's interpreter would truncate
        bits = moved.to(tl.uint32, bitcast=True)
        moved = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.int16)
    tl.store(out + at, moved)
