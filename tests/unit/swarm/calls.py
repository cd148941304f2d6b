"""What the tests of calls say to each other, and how they say it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import ClassVar

import pytest

from p2ptrain.run import PeerId, Record
from p2ptrain.run.record import Count, Text
from p2ptrain.swarm import Rpc, RpcError, Swarm
from p2ptrain.swarm.rpc import Reason

Pair = tuple[Swarm, Swarm]


class Ask(Record):
    kind: ClassVar[str] = "ask/1"
    max_bytes: ClassVar[int] = 600

    text: Text = ""
    number: Count = 0


class Told(Record):
    kind: ClassVar[str] = "told/1"
    max_bytes: ClassVar[int] = 600

    text: Text
    caller: Text


async def echo(caller: PeerId, request: Ask) -> Told:
    return Told(text=request.text, caller=caller)


async def count(_caller: PeerId, request: Ask) -> AsyncGenerator[bytes, None]:
    for number in range(request.number):
        yield b"%d" % number


def serve_one_and_wait(pair: Pair, method: str, gate: asyncio.Event) -> None:
    """The first peer answers with one frame and then falls silent."""

    async def one_and_wait(_caller: PeerId, _request: Ask) -> AsyncGenerator[bytes, None]:
        yield Told(text="one", caller="").encoded
        await gate.wait()

    pair[0].run(pair[0].rpc.serve_stream(method, Ask, one_and_wait))


def ask(pair: Pair, method: str, request: Record | None = None, timeout: float = 10.0) -> Told:
    """The second peer calls the first."""
    answering, asking = pair
    return asking.run(asking.rpc.call(answering.peer_id, method, request or Ask(), Told, timeout), 20)


def failure_of(pair: Pair, method: str, request: Record | None = None, timeout: float = 10.0) -> tuple[Reason, str]:
    with pytest.raises(RpcError, match=f"{method} to {pair[0].peer_id[-6:]}: ") as failure:
        ask(pair, method, request, timeout)
    return failure.value.reason, failure.value.detail


async def frames_of(
    asking: Rpc, peer: PeerId, method: str, number: int, arrived: list[bytes] | None = None
) -> list[bytes]:
    """All frames of an answer; what came before a failure is in `arrived`."""
    arrived = [] if arrived is None else arrived
    async with contextlib.aclosing(asking.stream(peer, method, Ask(number=number))) as frames:
        async for frame in frames:
            arrived.append(frame)
    return arrived
