"""A run's other peers, for commands that give them something: some may be gone, some unwilling."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from p2ptrain.errors import NetworkError
from p2ptrain.run import PeerId, Record
from p2ptrain.swarm import RpcError
from tests.unit.diloco.samples import KEY_OF
from tests.unit.swarm.people import presence_of


class Others:
    """Stands for a `Swarm`."""

    def __init__(self, peers: list[PeerId], gone: tuple[PeerId, ...] = (), unwilling: tuple[PeerId, ...] = ()) -> None:
        self._peers, self._gone, self._unwilling = peers, gone, unwilling
        self.taken: list[PeerId] = []
        self._arrived = 0
        self.directory = self.node = self.rpc = self

    def run(self, work: Coroutine[Any, Any, Any], timeout: float) -> Any:
        self._arrived, self._everyone = 0, asyncio.Event()
        return asyncio.run(asyncio.wait_for(work, 10))

    def note(self, request: Any) -> None:
        """What was given."""

    async def peers(self, _run: bytes) -> dict[PeerId, Any]:
        return {peer: presence_of(KEY_OF[peer]) for peer in self._peers}

    async def connect(self, peer: PeerId, _addresses: Any) -> None:
        self._arrived += 1
        if self._arrived == len(self._peers):
            self._everyone.set()
        await self._everyone.wait()  # whoever is slow keeps nobody waiting
        if peer in self._gone:
            raise NetworkError(f"can't connect to {peer}")

    async def call(self, peer: PeerId, method: str, request: Record, answer: type[Record]) -> Record:
        if peer in self._unwilling:
            raise RpcError(peer, method, "refused", "not today")
        self.taken.append(peer)
        self.note(request)
        return answer()
