"""The kernels in plain torch, for any device (equations in `kernels`). A few tiles at a time, to save memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from p2ptrain.spsa.signs import TILE, signs

TILES_AT_ONCE = 64


class PlainKernels:
    """See `Kernels`."""

    def add(self, master: torch.Tensor, kinds: torch.Tensor, keys: Sequence[int], quanta: torch.Tensor) -> None:
        for first, part, kind in _spans(master, kinds):
            for key, row in zip(keys, quanta.to(master.device), strict=True):
                part += row[kind].unsqueeze(1) * signs(key, first, len(part), master.device)

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
        tiles = out.view(-1, TILE)
        for first, part, kind in _spans(master, kinds):
            weights = part.to(torch.float32) * steps.to(master.device)[kind].unsqueeze(1)
            moved = weights + amplitude * signs(key, first, len(part), master.device).to(torch.float32)
            tiles[first : first + len(part)] = moved.to(out.dtype)


def _spans(master: torch.Tensor, kinds: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """A few tiles at a time: (number of the first tile, int32 (tiles, 4096), kinds (tiles))."""
    tiles = master.view(-1, TILE)
    for first in range(0, len(tiles), TILES_AT_ONCE):
        chosen = slice(first, first + TILES_AT_ONCE)
        yield first, tiles[chosen], kinds[chosen].long()
