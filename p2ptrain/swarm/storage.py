"""The records that a node keeps for the DHT, with limits on their size.

hivemind's storage keeps every record that its validator accepts. Anybody can make many valid records, because
identities and runs cost nothing. So there is a limit for each key, and one for all keys together. When a limit is
reached, records that are there already can be renewed, and new ones are refused. So a flood of records pushes out
nobody who was there before.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from hivemind.dht.routing import DHTID, Subkey
from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
from hivemind.utils.timed_storage import TimedStorage

from p2ptrain.run import PeerId
from p2ptrain.swarm.presence import monotonic

KEY_BYTES = 3 * 1024 * 1024
"""The limit for all records under one key. They go into one answer, and p2pd carries no message over 4 MiB. There is
room for about 3,000 peers of a run, or 2,400 runs."""
STORAGE_BYTES = 32 * 1024 * 1024
"""The limit for all records together. In memory they take about twice as much."""
COUNT_SECONDS = 1.0


class BoundedStorage(DHTLocalStorage):  # type: ignore[misc]  # hivemind is not typed
    """A storage of records under subkeys; this DHT holds nothing else."""

    def __init__(
        self, before: DHTLocalStorage | None = None, admits: Callable[[PeerId], bool] = lambda peer: True
    ) -> None:
        """The records of `before` are taken over. `admits` says whether the presence of a peer may be kept."""
        super().__init__()
        self._admits = admits
        self._bytes, self._counted = 0, 0.0
        for key, found in before.items() if before is not None else ():
            for subkey, (value, expiration_time) in found.value.items():
                self.store_subkey(key, subkey, value, expiration_time)

    def store_subkey(self, key: DHTID, subkey: Subkey, value: bytes, expiration_time: float) -> bool:
        """Keep a record if there is room for it, and if no record here under this subkey lasts as long."""
        if isinstance(subkey, str) and not self._admits(PeerId(subkey)):  # the subkeys of runs are bytes
            return False
        found = self.get(key)
        records = found.value if found is not None else DictionaryDHTValue()
        known = records.get(subkey)
        # hivemind would refuse it, too, but note its time, and then remove the record here when that time is over.
        if known is not None and known.expiration_time >= expiration_time:
            return False
        more = len(value) - (len(known.value) if known is not None else 0)
        if not self._has_room(records, more, known is not None):
            return False
        stored: bool = super().store_subkey(key, subkey, value, expiration_time)
        if stored:
            self._bytes += more
        for storage in (records, self):
            _forget_renewals(storage)
        return stored

    def _has_room(self, records: TimedStorage[Any, Any], more: int, renewal: bool) -> bool:
        slack = 1.125 if renewal else 1.0  # a renewed record may be a little longer
        if _bytes_of(records) + more > slack * KEY_BYTES:
            return False
        if self._bytes + more > slack * STORAGE_BYTES and monotonic() - self._counted > COUNT_SECONDS:
            self._bytes, self._counted = sum(_bytes_of(found.value) for _, found in self.items()), monotonic()
        return self._bytes + more <= slack * STORAGE_BYTES


def _bytes_of(records: TimedStorage[Any, Any]) -> int:
    return sum(len(record.value) for _, record in records.items())


def _forget_renewals(storage: TimedStorage[Any, Any]) -> None:
    """Remove old end times: hivemind keeps each end time of a record until it comes, even if the record was renewed."""
    if len(storage.expiration_heap) > 2 * len(storage.key_to_heap) + 64:
        storage.expiration_heap = list(storage.key_to_heap.values())
        heapq.heapify(storage.expiration_heap)
