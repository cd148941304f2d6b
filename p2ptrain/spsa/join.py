"""How a newcomer comes to a state: the newest snapshot that most peers have, or the run's base."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from p2ptrain.errors import LedgerError, MalformedError, NetworkError, StorageError
from p2ptrain.run import Digest, PeerId, short
from p2ptrain.spsa.position import Position, total, unpacked
from p2ptrain.spsa.signs import TILE
from p2ptrain.spsa.state import PART_ELEMENTS, MasterManifest, MasterState
from p2ptrain.state import Fetcher, FetchError
from p2ptrain.state.arrivals import SNAPSHOT, Arrivals, hear_peers, most_held
from p2ptrain.state.run import Run
from p2ptrain.swarm import HEARTBEAT_SECONDS, Membership, monotonic

NOBODY_AFTER = 60.0

log = logging.getLogger(__name__)


class AnotherModel(StorageError):
    """The run's weights are not those of the model that was built here."""


class Joiner:
    """Finds and fetches the state to begin from."""

    def __init__(
        self, run: Run, membership: Membership, fetcher: Fetcher, tell: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self._run, self._membership, self._fetcher = run, membership, fetcher
        self._arrivals = Arrivals(fetcher, run.folder, np.int32)
        self._arrivals.on_progress = lambda here, in_all: tell("progress", {"here": here, "in_all": in_all})

    async def find_state(self, base: MasterState, allowed: Callable[[Position], bool]) -> MasterState:
        """
        Args:
            base: as this peer would begin the run; what a snapshot shares with it is not fetched.
            allowed: whether all records of a position count.

        Raises:
            NetworkError: no peer of the run could be found.
            AnotherModel: the run's state is of another model.
            StorageError: what arrives can't be kept.
        """
        if base.digest == self._run.folder.genesis.base and not await self._later_ones():
            return base
        deadline, unusable = monotonic() + NOBODY_AFTER, set[Digest]()
        problem = "no peer of the run announces a snapshot"
        while monotonic() < deadline:
            peers = await hear_peers(self._membership)
            found = most_held(peers, unusable)
            if found is None:
                await asyncio.sleep(HEARTBEAT_SECONDS / 2)
                continue
            records, state, holders = found
            try:
                return await self._fetch(state, records, holders, base, allowed)
            except (FetchError, MalformedError, LedgerError) as error:
                problem = str(error)
                log.warning("the snapshot %s of %d records can't be used: %s", short(state), records, problem)
                unusable.add(state)
                deadline = monotonic() + NOBODY_AFTER
        raise NetworkError(
            "nobody handed out the run's state",
            problem,
            "check that a peer that trains in this run is reachable, or ask for a newer invite",
        )

    async def _later_ones(self) -> bool:
        peers = await hear_peers(self._membership)
        return any(records for seen in peers.values() for records, _ in seen.snapshots)

    async def _fetch(
        self,
        digest: Digest,
        records: int,
        holders: Sequence[PeerId],
        base: MasterState,
        allowed: Callable[[Position], bool],
    ) -> MasterState:
        data = await self._fetcher.fetch(digest, lambda: holders, SNAPSHOT, MasterManifest.max_bytes)
        manifest = MasterManifest.decode(bytes(data))
        if records == 0 and digest != self._run.folder.genesis.base:
            raise LedgerError("a base is not the one that the run began with", short(digest))
        position = unpacked(manifest.position)
        if total(position) != records or not allowed(position):
            raise LedgerError("a snapshot holds other records than was said, or some that count no more", short(digest))
        layout = manifest.layout()
        own, theirs = [(s.name, s.shape) for s in base.layout.slots], [(s.name, s.shape) for s in layout.slots]
        if own != theirs or manifest.frozen != base.frozen:
            raise AnotherModel(
                "the run's state is of another model",
                "names, shapes or untrained weights differ from the model that was built here",
                "build the model that the run's spec describes, with the same versions of torch and transformers",
            )
        here = {part.digest: values for part, values in base.parts}
        sizes = {
            part: 4 * min(PART_ELEMENTS, layout.tiles * TILE - at * PART_ELEMENTS)
            for at, part in enumerate(manifest.parts)
        }
        wanted = {part: size for part, size in sizes.items() if part not in here}
        here.update(await self._arrivals.fetch(wanted, holders))
        self._arrivals.let_go_of_others(set(wanted))
        return MasterState.assemble(manifest, here.__getitem__)
