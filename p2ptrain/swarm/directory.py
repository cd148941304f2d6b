"""The directory: the records that we keep in hivemind's DHT.

    the run's key    one subkey per peer    its `Presence`, signed by the peer
    RUNS             one subkey per run     its `Announcement`, whose genesis the founder has signed

Every node checks a record before it stores or returns it: the record must be signed, and must belong to its key and its
subkey. So nobody can add or overwrite the record of somebody else.
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
from p2ptrain.text import first_line

CLOSE_TIMEOUT = 3.0
RUNS = "p2ptrain/runs"
LIFETIME = 60.0
ANNOUNCED_LIFETIME = 600.0
LONGEST_LIFETIME = 3600.0

log = logging.getLogger(__name__)


class Directory:
    """This peer's access to the DHT, and the part of the DHT that it keeps."""

    def __init__(self, dht: DHTNode, door: Door) -> None:
        self._dht, self._door = dht, door

    @classmethod
    async def join(cls, node: Node, first: set[PeerId], door: Door, hidden: bool = False) -> Directory:
        """Join the DHT of the `first` peers, or start a new one if there are none. A `hidden` node, which others can't
        reach, uses the DHT, but keeps no records for others. Raises NetworkError if no peer answers as a DHT node."""
        addresses = [f"/p2p/{peer}" for peer in first]
        try:
            dht = await DHTNode.create(
                p2p=node.daemon,
                initial_peers=addresses or None,
                record_validator=_OnlySelfCertifying(),
                strict=False,
                client_mode=hidden,
            )
        except Exception as error:  # hivemind's DHT has no error type of its own
            next_step = "try again, or ask for a newer invite"
            raise NetworkError("the swarm's peers do not answer in the DHT", first_line(error), next_step) from None
        dht.protocol.storage = BoundedStorage(dht.protocol.storage, door.knows)
        dht.protocol.cache = BoundedStorage(dht.protocol.cache, door.knows)
        return cls(dht, door)

    async def announce(self, presence: Presence) -> bool:
        """Store this peer's record in the DHT; False if no node took it."""
        stored = await self._dht.store(
            _key(presence.run), presence.encoded, clock.swarm_time() + LIFETIME, subkey=presence.author
        )
        return bool(stored)

    async def meet(self, peer: PeerId) -> None:
        """Join this peer's part of the DHT with that of a connected peer, if the two were separate."""
        await self._dht.protocol.call_ping(PeerID.from_base58(peer))

    async def peers(self, run: Digest) -> dict[PeerId, Presence]:
        """The peers that have announced themselves in the run within the last minute and are not revoked."""
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
        """Put a run into the list of runs, or renew its entry; returns how many nodes took it.

        hivemind's own `store` asks for a key in order to find the nodes that keep it. Each node that has the key would
        answer with the whole list. So we ask for the neighbouring key: nobody has it, and the same nodes would keep it.
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
        """How many other nodes of the DHT this node knows."""
        return len(self._dht.protocol.routing_table.uid_to_peer_id)

    @property
    def records(self) -> int:
        """How many records of peers and runs this node keeps for the DHT. Cached answers of others do not count."""
        stored = (item.value for _, item in self._dht.protocol.storage.items())
        return sum(len(value) if isinstance(value, DictionaryDHTValue) else 1 for value in stored)

    async def close(self) -> None:
        """Leave the DHT. hivemind waits for an answer of p2pd here, which never comes if p2pd has ended: hence the
        timeout."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._dht.shutdown(), CLOSE_TIMEOUT)


class _OnlySelfCertifying(RecordValidatorBase):  # type: ignore[misc]  # hivemind is not typed
    """hivemind asks this validator before it stores or returns a record: it must be the announcement of the run that
    its subkey names, or the presence of the peer that its subkey names in the run that its key names."""

    def validate(self, record: DHTRecord) -> bool:
        try:
            value, subkey = msgpack.unpackb(record.value), msgpack.unpackb(record.subkey)
            if record.key == _RUNS_ID.to_bytes():
                belongs = subkey == announced_run(value)
            else:
                presence = Presence.decode(value).check_signature()
                key = DHTID.generate(source=_key(presence.run)).to_bytes()
                belongs = subkey == presence.author and record.key == key
            return bool(belongs) and record.expiration_time < clock.swarm_time() + LONGEST_LIFETIME
        except (MalformedError, ValueError, TypeError, msgpack.UnpackException):
            return False

    def merge_with(self, other: Any) -> bool:
        return isinstance(other, _OnlySelfCertifying)


def _key(run: Digest) -> str:
    return f"p2ptrain/{run.hex()}/peers"


_RUNS_ID = DHTID.generate(source=RUNS)
