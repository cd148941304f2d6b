"""A node starts or says why not, hears who is really speaking, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import re
import threading
import time

import psutil
import pytest
from hivemind.proto import p2pd_pb2

from p2ptrain.errors import NetworkError
from p2ptrain.run import PROTOCOL, PeerId
from p2ptrain.swarm import MAX_GOSSIP_BYTES, Identity, NodeConfig, Swarm, clock, rpc
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.node import Gossip, Node
from p2ptrain.swarm.rpc import Rpc
from p2ptrain.swarm.sockets import check_port
from p2ptrain.swarm.swarm import Hello, HelloAnswer
from tests.unit.swarm.conftest import LOOPBACK, Swarms, daemon_of, eventually, is_running

Pair = tuple[Swarm, Swarm]


def port_of(address: str) -> int:
    return int(address.split("/")[4])


# Starting ------------------------------------------------------------------------------------------------------------


def test_a_node_alone_is_a_swarm_of_one(swarms: Swarms) -> None:
    alone = swarms.start()
    (address,) = alone.addresses()
    assert re.fullmatch(rf"/ip4/127\.0\.0\.1/tcp/\d+/p2p/{alone.peer_id}", address)
    assert alone.run(alone.node.connected()) == set()
    alone.check()


def test_the_daemon_is_known_by_the_name_of_our_key(pair: Pair) -> None:
    assert pair[0].node.daemon.peer_id.to_base58() == pair[0].peer_id == pair[0].key.peer_id


def test_the_daemon_does_not_hear_a_ctrl_c_in_our_terminal(pair: Pair) -> None:
    assert os.getsid(daemon_of(pair[0])) == daemon_of(pair[0]) != os.getsid(0)


def test_a_newcomer_is_connected_when_it_has_started(pair: Pair) -> None:
    first, second = pair
    assert second.run(second.node.connected()) == {first.peer_id}
    assert first.run(first.node.connected()) == {second.peer_id}


def test_one_reachable_address_of_several_is_enough(swarms: Swarms) -> None:
    alive, dead = swarms.start(), swarms.start()
    gone = dead.addresses()
    dead.close()
    newcomer = swarms.start(*gone, *alive.addresses())
    assert newcomer.run(newcomer.node.connected()) == {alive.peer_id}


class Ahead(Swarm):
    """Its swarm's clock is 1000 s ahead of this machine's."""

    async def _hello(self, peer: PeerId, request: Hello) -> HelloAnswer:
        return (await super()._hello(peer, request)).model_copy(update={"time": time.time() + 1000.0})


def test_a_newcomer_takes_over_the_swarms_time(swarms: Swarms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_offset", 0.0)
    swarms.join(swarms.start(kind=Ahead))
    assert clock.swarm_time() == pytest.approx(time.time() + 1000.0, abs=0.5)


# Not starting --------------------------------------------------------------------------------------------------------


def our_children() -> set[int]:
    return {child.pid for child in psutil.Process().children() if is_running(child.pid)}


def refusal_of(identity: Identity, *bootstrap: str, listen: str = LOOPBACK) -> NetworkError:
    """Why a node with these addresses does not start; it must not leave a process, a thread or a lock behind."""
    processes, threads = our_children(), set(threading.enumerate())
    with pytest.raises(NetworkError) as refusal:
        Swarm.start(identity, NodeConfig(listen=(listen,), bootstrap=bootstrap)).close()
    assert our_children() <= processes
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=30)  # asyncio's thread that waited for the daemon tells its loop, then ends
    assert set(threading.enumerate()) <= threads
    Identity.open(identity.path).close()
    assert refusal.value.next_step
    assert refusal.value.exit_code == 5
    return refusal.value


def test_a_dead_address_is_told(swarms: Swarms) -> None:
    gone = swarms.start()
    (address,) = gone.addresses()
    gone.close()
    refusal = refusal_of(swarms.identity(), address)
    assert refusal.what == "nobody answers at the swarm's addresses"
    assert f"/tcp/{port_of(address)}" in refusal.why
    assert "connection refused" in refusal.why
    assert "invite" in refusal.next_step


def test_another_peer_at_the_address_is_told(swarms: Swarms, pair: Pair) -> None:
    expected = swarms.identity()
    expected.close()
    refusal = refusal_of(swarms.identity(), pair[0].addresses()[0].replace(pair[0].peer_id, expected.peer_id))
    assert refusal.what == "nobody answers at the swarm's addresses"
    assert f"expected {expected.peer_id}, but remote key matches {pair[0].peer_id}" in refusal.why


def test_a_libp2p_node_of_other_software_is_told(swarms: Swarms, pair: Pair) -> None:
    identity, (host, _) = swarms.identity(), pair
    foreign = host.run(Node.start(identity, NodeConfig(listen=(LOOPBACK,)), Door()))
    try:
        refusal = refusal_of(swarms.identity(), *host.run(foreign.addresses()))
    finally:
        host.run(foreign.close())
        identity.close()
    assert refusal.what == "a program that is not a p2ptrain peer answers at the swarm's address"
    assert "protocols not supported" in refusal.why


class Newer(Swarm):
    async def _hello(self, peer: PeerId, request: Hello) -> HelloAnswer:
        return HelloAnswer(
            software="p2ptrain 7.0", oldest_protocol=PROTOCOL + 1, newest_protocol=PROTOCOL + 2, time=1.0
        )


def test_a_swarm_of_another_version_is_told(swarms: Swarms) -> None:
    refusal = refusal_of(swarms.identity(), *swarms.start(kind=Newer).addresses())
    assert refusal.what == "the swarm speaks another version of the protocol"
    assert f"p2ptrain 7.0 there speaks {PROTOCOL + 1} to {PROTOCOL + 2}" in refusal.why
    assert "update" in refusal.next_step


class Mute(Swarm):
    async def _hello(self, _peer: PeerId, _request: Hello) -> HelloAnswer:
        self._never = asyncio.Event()  # what waits for nothing that anybody holds is collected as garbage
        await self._never.wait()
        raise AssertionError


def test_a_swarm_that_does_not_answer_is_told(swarms: Swarms, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = swarms.start(kind=Mute).addresses()
    monkeypatch.setattr(rpc, "IDLE_TIMEOUT", 0.3)
    refusal = refusal_of(swarms.identity(), *addresses)
    assert refusal.what == "the swarm does not answer"
    assert "timeout" in refusal.why


class WithoutDirectory(Swarm):
    async def _start(self) -> None:
        self.node = await Node.start(self.identity, self.config, self.door)
        self._to_close.push_async_callback(self.node.close)
        self.rpc = Rpc(self.node, self.door)
        await self.rpc.serve("hello", Hello, self._hello)


def test_a_swarm_without_a_directory_is_told(swarms: Swarms) -> None:
    refusal = refusal_of(swarms.identity(), *swarms.start(kind=WithoutDirectory).addresses())
    assert refusal.what == "the swarm's peers do not answer in the DHT"


def test_ones_own_address_is_told(swarms: Swarms) -> None:
    identity = swarms.identity()
    refusal = refusal_of(identity, f"/ip4/127.0.0.1/tcp/1/p2p/{identity.peer_id}")
    assert refusal.what == "the swarm's address is the address of this peer itself"
    assert identity.peer_id in refusal.why


def test_a_taken_port_is_told(swarms: Swarms, pair: Pair) -> None:
    listen = pair[0].addresses()[0].partition("/p2p/")[0]
    refusal = refusal_of(swarms.identity(), listen=listen)
    assert refusal.what == f"can't listen at {listen}"
    assert refusal.why == f"port {port_of(listen)} is taken by another process"


# Gossip --------------------------------------------------------------------------------------------------------------


async def next_message(listener: Node, topic: str) -> Gossip:
    async with contextlib.aclosing(listener.subscribe(topic)) as messages:  # type: ignore[type-var]
        async for message in messages:
            return message
    raise AssertionError("the daemon ended")


def heard_by(listener: Swarm, speaker: Swarm, topic: str, *said: bytes) -> Gossip:
    """The first message that `listener` gets while `speaker` repeats itself: libp2p takes a while to find listeners."""
    hearing = listener.submit(next_message(listener.node, topic))
    deadline = time.monotonic() + 10
    while not concurrent.futures.wait([hearing], 0.05).done and time.monotonic() < deadline:
        for data in said:
            request = p2pd_pb2.PSRequest(type=p2pd_pb2.PSRequest.PUBLISH, topic=topic, data=data)
            speaker.run(_publish_unchecked(speaker.node, request))
    return hearing.result(0)


async def _publish_unchecked(speaker: Node, request: p2pd_pb2.PSRequest) -> None:
    async with speaker._control(type=p2pd_pb2.Request.PUBSUB, pubsub=request):
        pass


def test_gossip_arrives_with_its_authenticated_origin(pair: Pair) -> None:
    first, second = pair
    assert heard_by(second, first, "one", b"hello") == Gossip(first.peer_id, b"hello")
    assert heard_by(first, second, "two", b"hello") == Gossip(second.peer_id, b"hello")


def test_messages_that_are_too_long_for_gossip_are_neither_sent_nor_heard(pair: Pair) -> None:
    first, second = pair
    with pytest.raises(ValueError, match="too many for gossip"):
        first.run(first.node.publish("long", bytes(MAX_GOSSIP_BYTES + 1)))
    heard = heard_by(second, first, "long", bytes(MAX_GOSSIP_BYTES + 1), bytes(MAX_GOSSIP_BYTES))
    assert len(heard.data) == MAX_GOSSIP_BYTES


def test_what_is_said_in_one_topic_is_not_heard_in_another(pair: Pair) -> None:
    first, second = pair
    elsewhere = second.submit(next_message(second.node, "elsewhere"))
    heard_by(second, first, "here", b"hello")
    assert not elsewhere.done()
    elsewhere.cancel()


# Failing and leaving -------------------------------------------------------------------------------------------------


def test_closing_leaves_no_process_no_socket_no_port_no_thread_and_no_lock(swarms: Swarms) -> None:
    first = swarms.start()
    second = swarms.join(first)
    (address,) = first.addresses()
    daemon, sockets = daemon_of(first), first.node._sockets.path
    assert is_running(daemon)
    assert list(sockets.glob("*.sock"))
    first.close()
    assert not is_running(daemon)
    assert not sockets.exists()
    assert not first._thread.is_alive()
    assert first.loop.is_closed()
    Identity.open(first.identity.path).close()
    check_port(address.partition("/p2p/")[0])
    eventually(lambda: not second.run(second.node.connected()))
    first.close()  # twice does no harm


def test_background_work_that_fails_is_told_to_whoever_trains(swarms: Swarms) -> None:
    swarm = swarms.start()

    async def fail() -> None:
        raise KeyError("a bug")

    async def begin() -> None:
        await asyncio.wait([swarm.spawn(fail())])

    swarm.run(begin())
    eventually(lambda: swarm._failure is not None)
    with pytest.raises(KeyError, match="a bug"):
        swarm.check()


def test_work_that_takes_too_long_is_cancelled(pair: Pair) -> None:
    cancelled = threading.Event()

    async def dawdle() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        pair[0].run(dawdle(), 0.05)
    assert cancelled.wait(5)
