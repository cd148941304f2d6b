"""Plain bytes through a stream of p2pd: what a transfer between two peers could reach at best."""

from __future__ import annotations

import asyncio

from p2ptrain.run import CHUNK_BYTES, PeerId
from p2ptrain.swarm import Swarm

RAW = "/benchmark/raw"


def serve_raw(swarm: Swarm, data: bytes) -> None:
    """Send to each peer that opens a raw stream as many bytes as it asks for: `data`, again and again."""
    plain = memoryview(data)

    async def send(_peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = int.from_bytes(await reader.readexactly(8), "big")
        while left:
            for start in range(0, min(left, len(plain)), CHUNK_BYTES):
                piece = plain[start : min(start + CHUNK_BYTES, left + start)]
                writer.write(piece)
                await writer.drain()
                left -= len(piece)
        await reader.read()  # until the other side has closed

    swarm.run(swarm.node.handle(RAW, send))


async def receive_raw(swarm: Swarm, peer: PeerId, count: int) -> None:
    """Ask a peer for that many bytes and throw them away. Runs on the network thread.

    Raises:
        ConnectionError: fewer bytes have arrived.
    """
    async with swarm.node.open_stream(peer, RAW) as (reader, writer):
        writer.write(count.to_bytes(8, "big"))
        while count:
            data = await reader.read(CHUNK_BYTES)
            if not data:
                raise ConnectionError("the raw stream broke")
            count -= len(data)
