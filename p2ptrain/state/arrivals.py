"""Fetching the vectors of a snapshot: several at a time, kept on disk chunk by chunk. A vector that is here already is
not fetched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.run import Digest, PeerId
from p2ptrain.state.fetch import Fetcher
from p2ptrain.state.folder import RunFolder

VECTORS_AT_ONCE = 2
SNAPSHOT = "snapshot"
"""The purpose under which these bytes are counted as sent."""


class Arrivals:
    """Fetches vectors of one run into its folder. `on_progress` is called with (bytes here, bytes in all) meanwhile.
    The numbers are of type `dtype`, 4 bytes each."""

    def __init__(self, fetcher: Fetcher, folder: RunFolder, dtype: type[np.float32] | type[np.int32]) -> None:
        self._fetcher, self._folder, self._dtype = fetcher, folder, dtype
        self._fetched: set[Digest] = set()
        self.on_progress: Callable[[int, int], None] = lambda here, in_all: None

    async def fetch(self, wanted: Mapping[Digest, int], holders: Sequence[PeerId]) -> dict[Digest, NDArray[Any]]:
        """Get vectors that are not here yet; all are in the run folder when this returns.

        Args:
            wanted: their digests, and the length of each in bytes.
            holders: peers that may have them.

        Returns:
            The vectors by digest, each an array of one dimension.

        Raises:
            FetchError: no peer could hand out one of them.
            MalformedError: one has another length.
            StorageError: what arrives can't be written.
        """
        arrived = dict.fromkeys(wanted, 0)
        places = asyncio.Semaphore(VECTORS_AT_ONCE)

        async def fetch_one(digest: Digest, size: int) -> NDArray[Any]:
            def progress(count: int, _: int) -> None:
                arrived[digest] = count
                self.on_progress(sum(arrived.values()), sum(wanted.values()))

            async with places:
                values = await asyncio.to_thread(self._on_disk, digest)
                if values is None:
                    return await self._fetch_one(digest, size, holders, progress)
            progress(values.nbytes, size)
            return values

        try:
            async with asyncio.TaskGroup() as group:
                tasks = {digest: group.create_task(fetch_one(digest, size)) for digest, size in wanted.items()}
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return {digest: task.result() for digest, task in tasks.items()}

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

    def _on_disk(self, digest: Digest) -> NDArray[Any] | None:
        """A vector that is in the folder already, from an earlier start or an older snapshot, else None."""
        with contextlib.suppress(StorageError):
            return self._folder.vectors.load(digest, self._dtype)
        return None

    def let_go_of_others(self, needed: set[Digest]) -> None:
        """Free the memory of fetched vectors that are not among `needed`, because their snapshot was unusable."""
        for digest in self._fetched - needed:
            self._fetcher.release(digest)
        self._fetched.clear()
