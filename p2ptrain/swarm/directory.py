"""The directory: presence records in hivemind's DHT, under the run's key, one subkey per peer.

Every node that stores or returns a record checks it first: it must be a `Presence`, signed by the peer that its
subkey names, for the run that its key names. So nobody can list, overwrite or drown somebody else there.
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
from p2ptrain.swarm.node import Node
from p2ptrain.swarm.presence import Presence

CLOSE_TIMEOUT = 3.0
LIFETIME = 60.0
LONGEST_LIFETIME = 3600.0

log = logging.getLogger(__name__)


class Directory:
    """This node's part of the DHT."""

    def __init__(self, dht: DHTNode) -> None:
        self._dht = dht

    @classmethod
    async def join(cls, node: Node, first: set[PeerId], hidden: bool = False) -> Directory:
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
                record_validator=_OnlyPresence(),
                strict=False,
                client_mode=hidden,
            )
        except RuntimeError as error:
            raise NetworkError(
                "the swarm's peers do not answer in the DHT", str(error), "try again, or ask for a newer invite"
            ) from None
        return cls(dht)

    async def announce(self, presence: Presence) -> bool:
        """Store this peer's record; False if no node took it."""
        stored = await self._dht.store(
            _key(Digest(presence.run)),
            presence.encoded,
            clock.swarm_time() + LIFETIME,
            subkey=presence.author,
        )
        return bool(stored)

    async def meet(self, peer: PeerId) -> None:
        """Make this part of the DHT and a connected peer's one, where they were apart."""
        await self._dht.protocol.call_ping(PeerID.from_base58(peer))

    async def peers(self, run: Digest) -> dict[PeerId, Presence]:
        """Everyone who has announced themselves in the run within the last minute."""
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
            if presence.phase != "leaving":
                presences[PeerId(presence.author)] = presence
        return presences

    @property
    def neighbours(self) -> int:
        """How many nodes of the DHT this one knows."""
        return len(self._dht.protocol.routing_table.uid_to_peer_id)

    @property
    def records(self) -> int:
        """How many peers' records this node keeps for the DHT, its own copies of others' answers not counted."""
        stored = (item.value for _, item in self._dht.protocol.storage.items())
        return sum(len(value) if isinstance(value, DictionaryDHTValue) else 1 for value in stored)

    async def close(self) -> None:
        """Leave. hivemind asks p2pd to take its calls back and waits for the answer, which never comes if p2pd has
        ended."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._dht.shutdown(), CLOSE_TIMEOUT)


class _OnlyPresence(RecordValidatorBase):  # type: ignore[misc]  # hivemind is not typed
    """hivemind asks this before it stores or returns anything."""

    def validate(self, record: DHTRecord) -> bool:
        try:
            presence = Presence.decode(msgpack.unpackb(record.value)).check_signature()
            return bool(
                msgpack.unpackb(record.subkey) == presence.author
                and record.key == DHTID.generate(source=_key(Digest(presence.run))).to_bytes()
                and record.expiration_time < clock.swarm_time() + LONGEST_LIFETIME
            )
        except (MalformedError, ValueError, TypeError, msgpack.UnpackException):
            return False

    def merge_with(self, other: Any) -> bool:
        return isinstance(other, _OnlyPresence)


def _key(run: Digest) -> str:
    return f"p2ptrain/{run.hex()}/peers"
