"""What a node keeps for the DHT, within bounds.

hivemind's storage keeps whatever its validator lets pass, and anybody can make as many valid records as they like:
identities and runs cost nothing. So there is a bound on each key and one on all of them. When one is reached, records
of those who are there already are renewed and newcomers' refused: a flood keeps nobody out who was there before it.
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
"""Of records under one key: all of them go into one answer, and p2pd carries no message of more than 4 MiB. That is
about 3,000 peers of a run, or 2,400 runs."""
STORAGE_BYTES = 32 * 1024 * 1024
"""Of all records; in memory they take about twice as much."""
COUNT_SECONDS = 1.0


class BoundedStorage(DHTLocalStorage):  # type: ignore[misc]  # hivemind is not typed
    """Records under subkeys: dictionaries of them are all that this DHT holds."""

    def __init__(
        self, before: DHTLocalStorage | None = None, admits: Callable[[PeerId], bool] = lambda peer: True
    ) -> None:
        """`before`: what takes its place, with what has arrived there. `admits`: whose presence is kept."""
        super().__init__()
        self._admits = admits
        self._bytes, self._counted = 0, 0.0
        for key, found in before.items() if before is not None else ():
            for subkey, (value, expiration_time) in found.value.items():
                self.store_subkey(key, subkey, value, expiration_time)

    def store_subkey(self, key: DHTID, subkey: Subkey, value: bytes, expiration_time: float) -> bool:
        """Keep a record, if there is room and none here that lasts as long."""
        if isinstance(subkey, str) and not self._admits(PeerId(subkey)):  # those of runs are bytes
            return False
        found = self.get(key)
        records = found.value if found is not None else DictionaryDHTValue()
        known = records.get(subkey)
        # hivemind would refuse it, too, but note its time: then what is here would be gone at the older record's end.
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
        slack = 1.125 if renewal else 1.0  # a record that is renewed may have become a little longer
        if _bytes_of(records) + more > slack * KEY_BYTES:
            return False
        if self._bytes + more > slack * STORAGE_BYTES and monotonic() - self._counted > COUNT_SECONDS:
            self._bytes, self._counted = sum(_bytes_of(found.value) for _, found in self.items()), monotonic()
        return self._bytes + more <= slack * STORAGE_BYTES


def _bytes_of(records: TimedStorage[Any, Any]) -> int:
    return sum(len(record.value) for _, record in records.items())


def _forget_renewals(storage: TimedStorage[Any, Any]) -> None:
    """hivemind notes each time at which a record was to end until that time comes, also when it was renewed since."""
    if len(storage.expiration_heap) > 2 * len(storage.key_to_heap) + 64:
        storage.expiration_heap = list(storage.key_to_heap.values())
        heapq.heapify(storage.expiration_heap)
