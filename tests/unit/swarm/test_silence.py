"""A peer that falls silent, hangs or dies holds nobody up: neither who calls it nor whom it calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from p2ptrain.run import PROTOCOL, PeerId
from p2ptrain.swarm import Identity, NodeConfig, Rpc, RpcError, Swarm, rpc
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.node import Node
from p2ptrain.swarm.rpc import MAX_FRAME_BYTES, _read_frame
from tests.unit.swarm.calls import Ask, Pair, Told, count, echo, failure_of, frames_of, serve_one_and_wait
from tests.unit.swarm.conftest import LOOPBACK, eventually

pytestmark = pytest.mark.usefixtures("every_call_comes_to_an_end")


def send_question(writer: asyncio.StreamWriter) -> None:
    writer.write(len(Ask().encoded).to_bytes(4, "big") + Ask().encoded)


async def answered(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = stream
    send_question(writer)
    assert [(await _read_frame(reader, 1000))[0] for _ in range(2)] == [0, 2]


# Silence -------------------------------------------------------------------------------------------------------------


def test_a_call_ends_at_its_timeout(pair: Pair, gate: asyncio.Event) -> None:
    async def think(caller: PeerId, _request: Ask) -> Told:
        await gate.wait()
        return Told(text="at last", caller=caller)

    pair[0].run(pair[0].rpc.serve("think", Ask, think))
    assert failure_of(pair, "think", timeout=0.2)[0] == "timeout"


def test_a_peer_that_falls_silent_in_a_stream_is_left(
    pair: Pair, gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering, asking = pair
    serve_one_and_wait(pair, "falter", gate)
    monkeypatch.setattr(rpc, "IDLE_TIMEOUT", 0.2)
    arrived: list[bytes] = []
    with pytest.raises(RpcError, match=r"timeout \(silent for"):
        asking.run(frames_of(asking.rpc, answering.peer_id, "falter", 0, arrived))
    assert len(arrived) == 1


def test_a_caller_that_never_asks_is_left(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    answering, asking = pair
    answering.run(answering.rpc.serve("wait", Ask, echo))
    monkeypatch.setattr(rpc, "IDLE_TIMEOUT", 0.2)

    async def open_and_say_nothing() -> bytes:
        async with asking.node.open_stream(answering.peer_id, f"/p2ptrain/{PROTOCOL}/wait") as (reader, _):
            return await asyncio.wait_for(reader.read(), 5)

    assert asking.run(open_and_say_nothing()) == b""


def test_a_caller_that_does_not_read_is_left(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    answering, asking = pair
    ended = threading.Event()

    async def pour(_caller: PeerId, _request: Ask) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield bytes(MAX_FRAME_BYTES)
        finally:
            ended.set()

    answering.run(answering.rpc.serve_stream("pour", Ask, pour))
    monkeypatch.setattr(rpc, "IDLE_TIMEOUT", 0.2)

    async def ask_and_do_not_read() -> None:
        async with asking.node.open_stream(answering.peer_id, f"/p2ptrain/{PROTOCOL}/pour") as (_, writer):
            send_question(writer)
            await asyncio.to_thread(ended.wait, 10)

    asking.run(ask_and_do_not_read())
    assert ended.is_set()


def test_a_caller_that_leaves_early_frees_the_handler(pair: Pair) -> None:
    answering, asking = pair
    answering.run(answering.rpc.serve_stream("endless", Ask, count))

    async def first_frame() -> bytes:
        async with contextlib.aclosing(asking.rpc.stream(answering.peer_id, "endless", Ask(number=2**40))) as frames:
            return await anext(frames)

    assert asking.run(first_frame()) == b"0"
    eventually(lambda: not answering.rpc._places.running)


def test_a_caller_is_waited_for_when_it_has_its_answer_but_takes_no_place(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """p2pd may reset a stream that the answering side closes first."""
    answering, asking = pair
    asked: list[PeerId] = []

    async def note(caller: PeerId, request: Ask) -> Told:
        asked.append(caller)
        return await echo(caller, request)

    answering.run(answering.rpc.serve("stay", Ask, note))
    monkeypatch.setattr(answering.rpc._places, "per_peer", 1)
    monkeypatch.setattr(answering.rpc._leaving, "per_peer", 1)

    async def ask_twice_and_stay() -> None:
        async with asking.node.open_stream(answering.peer_id, f"/p2ptrain/{PROTOCOL}/stay") as first:
            await answered(first)
            async with asking.node.open_stream(answering.peer_id, f"/p2ptrain/{PROTOCOL}/stay") as (reader, writer):
                send_question(writer)
                await asyncio.wait_for(reader.read(), 5)  # to its end: only one caller is waited for
            assert len(asked) == 2
            assert answering.rpc._leaving.running == {asking.peer_id: 1}

    asking.run(ask_twice_and_stay(), 20)
    eventually(lambda: not answering.rpc._leaving.running)


def test_a_caller_that_never_leaves_is_left(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    answering, asking = pair
    answering.run(answering.rpc.serve("linger", Ask, echo))
    monkeypatch.setattr(rpc, "IDLE_TIMEOUT", 0.2)

    async def ask_and_stay() -> bytes:
        async with asking.node.open_stream(answering.peer_id, f"/p2ptrain/{PROTOCOL}/linger") as stream:
            await answered(stream)
            return await asyncio.wait_for(stream[0].read(), 5)

    assert asking.run(ask_and_stay(), 20) == b""


# Deaths --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def frail(pair: Pair, tmp_path: Path, gate: asyncio.Event) -> Iterator[tuple[Node, Swarm]]:
    """A node that answers 'last' with one frame and then falls silent, and a peer that is connected to it."""
    host, asking = pair
    identity = Identity.open(tmp_path / "1.key")
    node = host.run(Node.start(identity, NodeConfig((LOOPBACK,), bootstrap=tuple(asking.addresses())), Door()))

    async def last_words(_caller: PeerId, _request: Ask) -> AsyncGenerator[bytes, None]:
        yield b"one"
        await gate.wait()

    try:
        host.run(Rpc(node, Door()).serve_stream("last", Ask, last_words))
        yield node, asking
    finally:
        host.run(node.close())
        identity.close()


def test_a_peer_that_dies_in_a_stream_breaks_it_off(frail: tuple[Node, Swarm]) -> None:
    node, asking = frail

    async def last_words() -> list[bytes]:
        frames = asking.rpc.stream(node.peer_id, "last", Ask())
        async with contextlib.aclosing(frames):
            assert await anext(frames) == b"one"
            os.kill(node.daemon._child.pid, signal.SIGKILL)
            return [frame async for frame in frames]

    with pytest.raises(RpcError, match="broken off"):
        asking.run(last_words(), 10)


def test_a_dead_peer_is_unreachable(frail: tuple[Node, Swarm]) -> None:
    node, asking = frail
    os.kill(node.daemon._child.pid, signal.SIGKILL)
    eventually(lambda: node.peer_id not in asking.run(asking.node.connected()))
    with pytest.raises(RpcError, match=r"last to \w{6}: unreachable"):
        asking.run(frames_of(asking.rpc, node.peer_id, "last", 0), 10)


def test_a_peer_that_hangs_is_left(frail: tuple[Node, Swarm], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the stream opens first depends on libp2p: it does at once if it already knows that the other side speaks
    the method."""
    node, asking = frail
    monkeypatch.setattr(rpc, "OPEN_TIMEOUT", 0.2)
    monkeypatch.setattr(rpc, "IDLE_TIMEOUT", 0.2)
    os.kill(node.daemon._child.pid, signal.SIGSTOP)
    try:
        with pytest.raises(RpcError, match=r"timeout \((no connection|silent for 0 s)\)"):
            asking.run(frames_of(asking.rpc, node.peer_id, "last", 0), 10)
    finally:
        os.kill(node.daemon._child.pid, signal.SIGCONT)
