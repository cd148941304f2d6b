"""Fetching a state: whose snapshot, and its vectors, several at a time, kept on disk chunk by chunk.

None is fetched that is here already.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.run import Digest, PeerId
from p2ptrain.state.fetch import Fetcher
from p2ptrain.state.folder import RunFolder
from p2ptrain.state.vectors import Numbers
from p2ptrain.swarm import HEARTBEAT_SECONDS, Membership, Presence

VECTORS_AT_ONCE = 2
SNAPSHOT = "snapshot"
"""What these bytes are for, in the accounts of what was sent."""


class Arrivals:
    """The vectors of one run, on their way into its folder.

    Args:
        dtype: of their numbers, 4 bytes each.
        on_progress: called with (bytes here, bytes in all) while they arrive.
    """

    def __init__(self, fetcher: Fetcher, folder: RunFolder, dtype: type[np.float32] | type[np.int32]) -> None:
        self._fetcher, self._folder, self._dtype = fetcher, folder, dtype
        self._fetched: set[Digest] = set()
        self.on_progress: Callable[[int, int], None] = lambda here, in_all: None

    async def fetch(self, wanted: Mapping[Digest, int], holders: Sequence[PeerId]) -> dict[Digest, NDArray[Any]]:
        """Vectors by digest, each so many bytes long; they are in the run's folder when this returns.

        Raises:
            FetchError: nobody handed one of them out.
            MalformedError: one has another length.
            StorageError: what arrives can't be kept.
        """
        found: dict[Digest, NDArray[Any]] = {}
        arrived = dict.fromkeys(wanted, 0)
        places = asyncio.Semaphore(VECTORS_AT_ONCE)

        async def fetch_one(digest: Digest, size: int) -> None:
            def progress(count: int, _: int) -> None:
                arrived[digest] = count
                self.on_progress(sum(arrived.values()), sum(wanted.values()))

            async with places:
                values = await asyncio.to_thread(self._on_disk, digest)
                if values is None:
                    values = await self._fetch_one(digest, size, holders, progress)
                else:
                    progress(values.nbytes, size)
            found[digest] = values

        try:
            async with asyncio.TaskGroup() as group:
                for digest, size in wanted.items():
                    group.create_task(fetch_one(digest, size))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return found

    async def _fetch_one(
        self, digest: Digest, size: int, holders: Sequence[PeerId], progress: Callable[[int, int], None]
    ) -> NDArray[Any]:
        incoming = self._folder.incoming
        data = await self._fetcher.fetch(digest, lambda: holders, SNAPSHOT, size, progress=progress, incoming=incoming)
        self._fetched.add(digest)
        if len(data) != size:
            raise MalformedError("a state's vectors have the wrong lengths")
        values: NDArray[Any] = np.frombuffer(data, dtype=self._dtype)
        await asyncio.to_thread(self._folder.vectors.save, digest, values)
        incoming.forget(digest)
        return values

    def _on_disk(self, digest: Digest) -> Numbers | None:
        """What an earlier start has fetched, or a snapshot holds that the ledger has forgotten."""
        vectors = self._folder.vectors
        with contextlib.suppress(StorageError):
            return vectors.load(digest) if self._dtype is np.float32 else vectors.load_integers(digest)
        return None

    def let_go_of_others(self, needed: set[Digest]) -> None:
        """What was fetched of snapshots that turned out to be unusable need not stay in memory."""
        for digest in self._fetched - needed:
            self._fetcher.release(digest)
        self._fetched.clear()


async def hear_peers(membership: Membership) -> dict[PeerId, Presence]:
    """Who is there, by their heartbeats; waits a moment for those whom only the directory knows."""
    for _ in range(3):
        listed = await membership.directory()
        if listed.keys() <= membership.live.keys() and membership.live:
            break
        await asyncio.sleep(HEARTBEAT_SECONDS / 2)
    return {**listed, **membership.live}


def most_held(peers: Mapping[PeerId, Presence], unusable: Set[Digest]) -> tuple[int, Digest, list[PeerId]] | None:
    """(height, state, holders) of the newest snapshot that more than half of the peers announce; if there is none, of
    the newest one. None if nobody announces any."""
    announced = (snapshot for seen in peers.values() for snapshot in seen.snapshots)
    votes = Counter(snapshot for snapshot in announced if snapshot[1] not in unusable)
    if not votes:
        return None
    height, state = max(votes, key=lambda vote: (2 * votes[vote] > len(peers), vote[0], votes[vote]))
    return height, state, [peer for peer, seen in peers.items() if (height, state) in seen.snapshots]
