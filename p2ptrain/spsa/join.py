"""Where a newcomer begins: at the newest snapshot that most peers have, or at the run's base."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from p2ptrain.errors import LedgerError
from p2ptrain.method import AnotherModel, Offer, Tell, find_snapshot, hear_peers
from p2ptrain.run import short
from p2ptrain.spsa.position import Position, total, unpacked
from p2ptrain.spsa.signs import TILE
from p2ptrain.spsa.state import PART_ELEMENTS, MasterManifest, MasterState
from p2ptrain.state import Fetcher
from p2ptrain.state.arrivals import SNAPSHOT, Arrivals
from p2ptrain.state.run import Run
from p2ptrain.swarm import Membership


class Joiner:
    """Finds and fetches the state from which a newcomer begins."""

    def __init__(self, run: Run, membership: Membership, fetcher: Fetcher, tell: Tell) -> None:
        self._run, self._membership, self._fetcher = run, membership, fetcher
        self._arrivals = Arrivals(fetcher, run.folder, np.int32)
        self._arrivals.on_progress = lambda here, in_all: tell("progress", {"here": here, "in_all": in_all})

    async def find_state(self, base: MasterState, allowed: Callable[[Position], bool]) -> MasterState:
        """The state to begin from. If it is the run's base, and this peer has built the same one, nothing is fetched.

        Args:
            base: this peer's own base. Parts that a snapshot shares with it are not fetched.
            allowed: whether all records of a position count.

        Raises:
            NetworkError, AnotherModel, StorageError: see `find_snapshot`.
        """
        if base.digest == self._run.folder.genesis.base:
            peers = await hear_peers(self._membership)
            if not any(records for seen in peers.values() for records, _ in seen.snapshots):
                return base
        return await find_snapshot(self._membership, lambda offer, _peers: self._fetch(offer, base, allowed))

    async def _fetch(self, offer: Offer, base: MasterState, allowed: Callable[[Position], bool]) -> MasterState:
        digest, records, holders = offer.state, offer.height, offer.holders
        data = await self._fetcher.fetch(digest, lambda: holders, SNAPSHOT, MasterManifest.max_bytes)
        manifest = MasterManifest.decode(bytes(data))
        if records == 0 and digest != self._run.folder.genesis.base:
            raise LedgerError("a snapshot of 0 records is not the run's base", short(digest))
        position = unpacked(manifest.position)
        if total(position) != records or not allowed(position):
            raise LedgerError("a snapshot holds other records than announced, or records that are cut", short(digest))
        layout = manifest.layout()
        own, theirs = [(s.name, s.shape) for s in base.layout.slots], [(s.name, s.shape) for s in layout.slots]
        if own != theirs or manifest.frozen != base.frozen:
            raise AnotherModel
        here = {part.digest: values for part, values in base.parts}
        left = (layout.tiles * TILE - at * PART_ELEMENTS for at in range(layout.parts))
        sizes = zip(manifest.parts, left, strict=True)
        wanted = {part: 4 * min(PART_ELEMENTS, size) for part, size in sizes if part not in here}
        here.update(await self._arrivals.fetch(wanted, holders))
        self._arrivals.let_go_of_others(set(wanted))
        return MasterState.assemble(manifest, here.__getitem__)
