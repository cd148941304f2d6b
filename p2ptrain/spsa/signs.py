"""The signs z ∈ {−1, +1}^d of a perturbation, from the counter-based generator Philox4x32-10.

    key   = first 64 bits of BLAKE3(run ‖ author ‖ session ‖ index)      the seed id of one record
    block = Philox4x32-10(counter = block number, key)                   4 words of 32 bits

Parameters lie in tiles of 4096, and 32 blocks serve one tile. Parameter i of tile t takes bit ⌊i / 128⌋ of word w of
block 32·t + j, where i mod 128 = 32·w + j. Bit 1 stands for −1. So 128 neighbours read 128 words at the same bit, which
suits vector units, and the signs can be computed in any order. The generator and its constants are from Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC11. This module is the readable reference, in torch's integers, for any
device. `kernels` computes the same bits fast.
"""

from __future__ import annotations

import torch
from blake3 import blake3

from p2ptrain.run import Digest, PeerId
from p2ptrain.run.keys import peer_id_to_bytes

TILE = 4096
LANES = 128
"""Parameters of a tile that share a bit position; as many words serve the tile."""
BLOCKS = 32
"""Philox blocks that serve a tile."""

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
_32_BITS = 0xFFFFFFFF


def seed_key(run: Digest, author: PeerId, session: bytes, index: int) -> int:
    """The 64-bit key of the perturbation along which record `index` of a log was measured."""
    named = run + peer_id_to_bytes(author) + session + index.to_bytes(8, "little")
    return int.from_bytes(blake3(named, derive_key_context="p2ptrain 2026 spsa seed").digest()[:8], "little")


def philox(counter: tuple[torch.Tensor, ...], key: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Philox4x32-10, elementwise. Words of 32 bits are held in int64 tensors of any one shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # If an int64 product overflows, its low 64 bits stay, so the halves that are taken below are right.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = _high(p1) ^ c1 ^ k0, p1 & _32_BITS, _high(p0) ^ c3 ^ k1, p0 & _32_BITS
        k0, k1 = (k0 + WEYL[0]) & _32_BITS, (k1 + WEYL[1]) & _32_BITS
    return c0, c1, c2, c3


def _high(product: torch.Tensor) -> torch.Tensor:
    return (product >> 32) & _32_BITS


def signs(key: int, first: int, tiles: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """The signs, ±1, of `tiles` tiles from tile `first` on: int32, (tiles, 4096)."""
    block = torch.arange(first * BLOCKS, (first + tiles) * BLOCKS, device=device).view(tiles, BLOCKS)
    zero = torch.zeros_like(block)
    words = philox((block & _32_BITS, block >> 32, zero, zero), (key & _32_BITS, key >> 32))
    lanes = torch.stack(words, dim=1).view(tiles, 1, LANES)
    bits = (lanes >> torch.arange(32, device=device).view(1, 32, 1)) & 1
    return (1 - 2 * bits).to(torch.int32).view(tiles, TILE)
