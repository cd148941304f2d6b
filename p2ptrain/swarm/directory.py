"""The directory: what hivemind's DHT holds for us.

    the run's key    one subkey per peer    its `Presence`, signed by the peer
    RUNS             one subkey per run     its `Announcement`, whose genesis the founder has signed

Every node that stores or returns a record checks it first: it must be what its key and subkey say. So nobody can list
or overwrite somebody else there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import msgpack
from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import PeerID

from p2ptrain.errors import MalformedError, NetworkError
from p2ptrain.run import Digest, PeerId
from p2ptrain.swarm import clock
from p2ptrain.swarm.announcement import Announcement, announced_run
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.node import Node
from p2ptrain.swarm.presence import Presence
from p2ptrain.swarm.storage import BoundedStorage

CLOSE_TIMEOUT = 3.0
RUNS = "p2ptrain/runs"
LIFETIME = 60.0
ANNOUNCED_LIFETIME = 600.0
LONGEST_LIFETIME = 3600.0

log = logging.getLogger(__name__)


class Directory:
    """This node's part of the DHT."""

    def __init__(self, dht: DHTNode, door: Door) -> None:
        self._dht, self._door = dht, door

    @classmethod
    async def join(cls, node: Node, first: set[PeerId], door: Door, hidden: bool = False) -> Directory:
        """Join the DHT of these peers, or start one. A hidden node, one that others can't reach, asks and stores there,
        but nothing is kept with it.

        Raises:
            NetworkError: none of them answers as a DHT node.
        """
        addresses = [f"/p2p/{peer}" for peer in first]
        try:
            dht = await DHTNode.create(
                p2p=node.dht_transport,
                initial_peers=addresses or None,
                record_validator=_OnlySelfCertifying(),
                strict=False,
                client_mode=hidden,
            )
        except RuntimeError as error:
            raise NetworkError(
                "the swarm's peers do not answer in the DHT", str(error), "try again, or ask for a newer invite"
            ) from None
        dht.protocol.storage = BoundedStorage(dht.protocol.storage, door.knows)
        dht.protocol.cache = BoundedStorage(dht.protocol.cache, door.knows)
        return cls(dht, door)

    async def announce(self, presence: Presence) -> bool:
        """Store this peer's record; False if no node took it."""
        stored = await self._dht.store(
            _key(presence.run),
            presence.encoded,
            clock.swarm_time() + LIFETIME,
            subkey=presence.author,
        )
        return bool(stored)

    async def meet(self, peer: PeerId) -> None:
        """Make this part of the DHT and a connected peer's one, where they were apart."""
        await self._dht.protocol.call_ping(PeerID.from_base58(peer))

    async def peers(self, run: Digest) -> dict[PeerId, Presence]:
        """Everyone who has announced themselves in the run within the last minute, and is not out of it."""
        found = await self._dht.get(_key(run), latest=True)
        if found is None or not isinstance(found.value, dict):
            return {}
        presences = {}
        for peer, entry in found.value.items():
            try:
                presence = Presence.decode(entry.value)
            except (MalformedError, TypeError) as error:
                log.debug("a directory entry of %s is unusable: %s", peer, error)
                continue
            author = presence.author
            if presence.phase != "leaving" and not self._door.is_out(author):
                presences[author] = presence
        return presences

    async def announce_run(self, announcement: Announcement) -> int:
        """Put a run into the list of runs, or keep it there; returns how many nodes took it.

        hivemind's own `store` looks for the nodes that keep a key by asking for the key, and whoever has it answers
        with all that is under it: the whole list, from each of them. So the key beside it is asked for, which nobody
        has, and which the same nodes would keep.
        """
        beside = DHTID(_RUNS_ID ^ 1)
        nearest = (await self._dht.find_nearest_nodes([beside], k_nearest=self._dht.num_replicas))[beside]
        subkey, value = announcement.run, self._dht.protocol.serializer.dumps(announcement.encoded)
        ends = clock.swarm_time() + ANNOUNCED_LIFETIME
        asked = [
            self._dht.protocol.call_store(peer, [_RUNS_ID], [value], [ends], [subkey])
            for node, peer in nearest.items()
            if node != self._dht.node_id
        ]
        taken = sum(any(answer or ()) for answer in await asyncio.gather(*asked))
        if self._dht.node_id in nearest:
            taken += self._dht.protocol.storage.store_subkey(_RUNS_ID, subkey, value, ends)
        return taken

    async def runs(self) -> list[Announcement]:
        """The runs that were announced in the last ten minutes."""
        found = await self._dht.get(RUNS, latest=True)
        if found is None or not isinstance(found.value, dict):
            return []
        return [Announcement.decode(entry.value) for entry in found.value.values()]

    @property
    def neighbours(self) -> int:
        """How many nodes of the DHT this one knows."""
        return len(self._dht.protocol.routing_table.uid_to_peer_id)

    @property
    def records(self) -> int:
        """How many records of peers and runs this node keeps for the DHT, its copies of others' answers not counted."""
        stored = (item.value for _, item in self._dht.protocol.storage.items())
        return sum(len(value) if isinstance(value, DictionaryDHTValue) else 1 for value in stored)

    async def close(self) -> None:
        """Leave. hivemind asks p2pd to take its calls back and waits for the answer, which never comes if p2pd has
        ended."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._dht.shutdown(), CLOSE_TIMEOUT)


class _OnlySelfCertifying(RecordValidatorBase):  # type: ignore[misc]  # hivemind is not typed
    """hivemind asks this before it stores or returns anything."""

    def validate(self, record: DHTRecord) -> bool:
        try:
            value, subkey = msgpack.unpackb(record.value), msgpack.unpackb(record.subkey)
            is_run = record.key == _RUNS_ID.to_bytes()
            belongs = _announces(value, subkey) if is_run else _is_there(value, subkey, record.key)
            return belongs and record.expiration_time < clock.swarm_time() + LONGEST_LIFETIME
        except (MalformedError, ValueError, TypeError, msgpack.UnpackException):
            return False

    def merge_with(self, other: Any) -> bool:
        return isinstance(other, _OnlySelfCertifying)


def _announces(value: Any, subkey: Any) -> bool:
    """Whether this is the announcement of the run that the subkey names."""
    return bool(subkey == announced_run(value))


def _is_there(value: Any, subkey: Any, key: bytes) -> bool:
    """Whether this is the presence, of the peer that the subkey names, in the run that the key names."""
    presence = Presence.decode(value).check_signature()
    expected = DHTID.generate(source=_key(presence.run)).to_bytes()
    return bool(subkey == presence.author and key == expected)


def _key(run: Digest) -> str:
    return f"p2ptrain/{run.hex()}/peers"


_RUNS_ID = DHTID.generate(source=RUNS)
