"""Calls between two real peers end with the answer, or with an `RpcError` that says why."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import ClassVar

import pytest

from p2ptrain.run import PROTOCOL, PeerId, Record
from p2ptrain.swarm import Refused, RpcError, rpc
from p2ptrain.swarm.rpc import MAX_FRAME_BYTES, RateLimit, _read_frame
from tests.unit.swarm.calls import Ask, Pair, Told, ask, count, echo, failure_of, frames_of, serve_one_and_wait
from tests.unit.swarm.conftest import eventually

pytestmark = pytest.mark.usefixtures("every_call_comes_to_an_end")


class Told2(Told):
    kind: ClassVar[str] = "told/2"


class Essay(Record):
    """A longer answer under the same name."""

    kind: ClassVar[str] = "told/1"

    text: str


# Answers -------------------------------------------------------------------------------------------------------------


def test_a_call_brings_the_answer_and_the_handler_knows_who_asks(pair: Pair) -> None:
    answering, asking = pair
    answering.run(answering.rpc.serve("echo", Ask, echo))
    assert ask(pair, "echo", Ask(text="hello")) == Told(text="hello", caller=asking.peer_id)


def test_both_sides_serve_and_call_over_one_connection(pair: Pair) -> None:
    answering, asking = pair
    for swarm in pair:
        swarm.run(swarm.rpc.serve("mutual", Ask, echo))
    assert ask((answering, asking), "mutual").caller == asking.peer_id
    assert ask((asking, answering), "mutual").caller == answering.peer_id


@pytest.mark.parametrize("number", [0, 1, 500])
def test_a_stream_brings_all_frames_in_order(number: int, pair: Pair) -> None:
    answering, asking = pair
    answering.run(answering.rpc.serve_stream(f"count{number}", Ask, count))
    frames = asking.run(frames_of(asking.rpc, answering.peer_id, f"count{number}", number))
    assert frames == [b"%d" % n for n in range(number)]


def test_the_door_is_asked_again_before_each_frame(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order may come while an answer is on its way."""
    answering, asking = pair
    out = False
    monkeypatch.setattr(answering.door, "refusal", lambda peer: "revoked meanwhile" if out else "")

    async def three(_caller: PeerId, _request: Ask) -> AsyncGenerator[bytes, None]:
        nonlocal out
        yield b"one"
        out = True
        yield b"two"

    answering.run(answering.rpc.serve_stream("ended", Ask, three))
    arrived: list[bytes] = []
    with pytest.raises(RpcError, match="revoked meanwhile"):
        asking.run(frames_of(asking.rpc, answering.peer_id, "ended", 0, arrived))
    assert arrived == [b"one"]


def test_calls_that_are_open_to_all_take_nobody_else_s_place(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    answering, asking = pair
    monkeypatch.setattr(answering.rpc._open_places, "in_all", 1)
    gate, waiting = asyncio.Event(), asyncio.Event()

    async def waits(caller: PeerId, request: Ask) -> Told:
        waiting.set()
        await gate.wait()
        return await echo(caller, request)

    answering.run(answering.rpc.serve("open-to-all", Ask, waits, open_to_all=True))
    answering.run(answering.rpc.serve("echo-beside", Ask, echo))
    first = asking.submit(asking.rpc.call(answering.peer_id, "open-to-all", Ask(), Told))
    answering.run(asyncio.wait_for(waiting.wait(), 10))
    assert failure_of(pair, "open-to-all") == ("refused", "too many calls at once")
    assert ask(pair, "echo-beside").caller == asking.peer_id

    async def open_the_gate() -> None:
        gate.set()

    answering.run(open_the_gate())
    assert first.result(10).caller == asking.peer_id


def test_the_largest_frame_passes_and_is_counted_on_both_sides(pair: Pair) -> None:
    answering, asking = pair

    async def largest(_caller: PeerId, _request: Ask) -> AsyncGenerator[bytes, None]:
        yield bytes(MAX_FRAME_BYTES)

    answering.run(answering.rpc.serve_stream("largest", Ask, largest))
    assert asking.run(frames_of(asking.rpc, answering.peer_id, "largest", 0)) == [bytes(MAX_FRAME_BYTES)]
    assert answering.node.sent["largest"] == MAX_FRAME_BYTES + 2 * 5
    assert asking.node.sent["largest"] == 4 + len(Ask().encoded)


def test_many_calls_at_once_are_all_answered(pair: Pair) -> None:
    answering, asking = pair
    answering.run(answering.rpc.serve("many", Ask, echo))

    async def all_at_once() -> list[Told]:
        calls = [asking.rpc.call(answering.peer_id, "many", Ask(text=str(n)), Told) for n in range(rpc.CALLS_PER_PEER)]
        return await asyncio.gather(*calls)

    assert [told.text for told in asking.run(all_at_once())] == [str(n) for n in range(rpc.CALLS_PER_PEER)]


# Refusals ------------------------------------------------------------------------------------------------------------


def test_an_unknown_method_is_told(pair: Pair) -> None:
    assert failure_of(pair, "nothing")[0] == "unknown method"


def test_a_refusal_arrives_with_its_text(pair: Pair) -> None:
    async def refuse(_caller: PeerId, request: Ask) -> Told:
        raise Refused(request.text)

    pair[0].run(pair[0].rpc.serve("refuse", Ask, refuse))
    assert failure_of(pair, "refuse", Ask(text="not öpen")) == ("refused", "not öpen")


def test_a_stream_may_be_refused_after_it_has_begun(pair: Pair) -> None:
    answering, asking = pair

    async def stop(_caller: PeerId, _request: Ask) -> AsyncGenerator[bytes, None]:
        yield b"one"
        raise Refused("not here any more")

    answering.run(answering.rpc.serve_stream("stop", Ask, stop))
    arrived: list[bytes] = []
    with pytest.raises(RpcError, match=r"refused \(not here any more\)"):
        asking.run(frames_of(asking.rpc, answering.peer_id, "stop", 0, arrived))
    assert arrived == [b"one"]


def test_a_bug_in_a_handler_breaks_one_call_and_not_the_next(pair: Pair) -> None:
    async def stumble(caller: PeerId, request: Ask) -> Told:
        return Told(text=("fine",)[request.number], caller=caller)

    pair[0].run(pair[0].rpc.serve("stumble", Ask, stumble))
    assert failure_of(pair, "stumble", Ask(number=1))[0] == "broken off"
    assert ask(pair, "stumble", Ask(number=0)).text == "fine"


class LongAsk(Record):
    kind: ClassVar[str] = "ask/1"

    text: str


@pytest.mark.parametrize("size", [Ask.max_bytes, 60_000])
def test_an_oversize_request_is_refused(size: int, pair: Pair) -> None:
    pair[0].run(pair[0].rpc.serve(f"strict{size}", Ask, echo))
    reason, detail = failure_of(pair, f"strict{size}", LongAsk(text="x" * size))
    assert reason == "refused"
    assert detail.startswith("the request is too long")


def test_a_refusal_arrives_although_the_request_is_still_on_its_way(pair: Pair) -> None:
    answering, asking = pair
    answering.run(answering.rpc.serve("slow", Ask, echo))

    async def answer_to(first: bytes, second: bytes) -> tuple[int, bytes]:
        async with asking.node.open_stream(answering.peer_id, f"/p2ptrain/{PROTOCOL}/slow") as (reader, writer):
            writer.write(first)
            await asyncio.to_thread(eventually, lambda: answering.node.sent["slow"])
            writer.write(second)
            return await asyncio.wait_for(_read_frame(reader, 1000), 5)

    for _ in range(20):
        answering.node.sent.clear()
        kind, text = asking.run(answer_to((60_000).to_bytes(4, "big") + bytes(30_000), bytes(30_000)))
        assert kind == 1
        assert b"too long" in text


def test_a_request_of_megabytes_is_not_read_to_its_end(pair: Pair) -> None:
    pair[0].run(pair[0].rpc.serve("stricter", Ask, echo))
    assert failure_of(pair, "stricter", LongAsk(text="x" * 2**23))[0] in ("refused", "broken off")


def test_a_malformed_request_is_refused(pair: Pair) -> None:
    pair[0].run(pair[0].rpc.serve("careful", Ask, echo))
    reason, detail = failure_of(pair, "careful", Told(text="", caller=""))
    assert reason == "refused"
    assert detail.startswith("expected a ask/1 record")


def test_a_request_of_random_bytes_is_refused(pair: Pair) -> None:
    answering, asking = pair
    answering.run(answering.rpc.serve("robust", Ask, echo))

    async def answer_to(data: bytes) -> tuple[int, bytes]:
        async with asking.node.open_stream(answering.peer_id, f"/p2ptrain/{PROTOCOL}/robust") as (reader, writer):
            writer.write(data)
            return await asyncio.wait_for(_read_frame(reader, 1000), 5)

    for data in (b"\0\0\0\1\xc1", b"\0\0\0\0", b"\xff\xff\xff\xff"):
        kind, text = asking.run(answer_to(data))
        assert kind == 1
        assert b"ask/1" in text or b"too long" in text


def test_a_peer_that_calls_too_often_is_told(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair[0].run(pair[0].rpc.serve("often", Ask, echo))
    monkeypatch.setattr(pair[0].rpc, "_limit", RateLimit(rate=0.0, burst=2))
    assert [ask(pair, "often").text for _ in range(2)] == ["", ""]
    assert failure_of(pair, "often") == ("refused", "too many calls, wait a second")


def test_a_peer_that_has_too_many_calls_open_is_told(
    pair: Pair, gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering, asking = pair
    monkeypatch.setattr(answering.rpc._places, "per_peer", 1)
    serve_one_and_wait(pair, "open", gate)

    async def call_within_a_call() -> None:
        async with contextlib.aclosing(asking.rpc.stream(answering.peer_id, "open", Ask())) as frames:
            await anext(frames)
            await asking.rpc.call(answering.peer_id, "open", Ask(), Told)

    with pytest.raises(RpcError, match=r"refused \(too many calls at once\)"):
        asking.run(call_within_a_call())


# Wrong answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [Told.max_bytes, 60_000])
def test_an_oversize_answer_is_not_read(size: int, pair: Pair) -> None:
    async def ramble(_caller: PeerId, _request: Ask) -> Essay:
        return Essay(text="x" * size)

    pair[0].run(pair[0].rpc.serve(f"ramble{size}", Ask, ramble))
    reason, detail = failure_of(pair, f"ramble{size}")
    assert reason == "malformed"
    assert f"at most {Told.max_bytes}" in detail


def test_an_answer_of_another_kind_is_malformed(pair: Pair) -> None:
    async def confuse(_caller: PeerId, _request: Ask) -> Told2:
        return Told2(text="", caller="")

    pair[0].run(pair[0].rpc.serve("confuse", Ask, confuse))
    reason, detail = failure_of(pair, "confuse")
    assert reason == "malformed"
    assert "expected a told/1 record" in detail


def test_an_empty_answer_is_no_answer(pair: Pair) -> None:
    pair[0].run(pair[0].rpc.serve_stream("empty", Ask, count))
    assert failure_of(pair, "empty") == ("broken off", "an empty answer")
