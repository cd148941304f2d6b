"""This process in a swarm: one node, its calls and its directory, on one asyncio thread.

The training thread never runs network code. It hands coroutines over to the network thread with `run` or `submit`. All
async functions, here and in the methods, run on the network thread.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import importlib.metadata
import logging
import threading
import time
from collections.abc import Coroutine
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import Field

from p2ptrain.errors import AccessError, NetworkError, P2PTrainError, StorageError
from p2ptrain.run import PROTOCOL, PeerId, Record
from p2ptrain.run.access import STRANGER
from p2ptrain.run.record import Count, Number, Text
from p2ptrain.swarm import clock
from p2ptrain.swarm.addresses import by_peer
from p2ptrain.swarm.config import NodeConfig
from p2ptrain.swarm.directory import Directory
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.identity import Identity
from p2ptrain.swarm.node import Node
from p2ptrain.swarm.patience import ask_all
from p2ptrain.swarm.probe import Probes
from p2ptrain.swarm.reach import Reach
from p2ptrain.swarm.rpc import IDLE_TIMEOUT, Rpc, RpcError

START_TIMEOUT = 60.0
NOTABLE_CLOCK_ERROR = 300.0
LAST_YEAR = 253_402_300_800.0
"""Seconds since 1970; later times have no date in Python."""

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Hello(Record):
    """The one call that peers of all versions understand."""

    kind: ClassVar[str] = "hello/1"


class HelloAnswer(Record):
    """The answer to `Hello`. It never changes: newer versions add calls, not fields."""

    kind: ClassVar[str] = "hello-answer/1"
    max_bytes: ClassVar[int] = 4096

    software: Text
    oldest_protocol: Count
    newest_protocol: Count
    time: Annotated[Number, Field(ge=0.0, lt=LAST_YEAR)]
    """The swarm's time in seconds since 1970."""


class Swarm:
    """A running node and its thread. Create it with `start`; end it with `close`, or use a `with` block."""

    def __init__(self, identity: Identity, config: NodeConfig, door: Door) -> None:
        self.identity, self.config, self.door = identity, config, door
        self.peer_id, self.key = identity.peer_id, identity.key
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop_forever, name="p2ptrain-network", daemon=True)
        self._closed = False
        self._failure: BaseException | None = None
        self._to_close = contextlib.AsyncExitStack()
        """What has been started on the network thread."""
        self.node: Node
        self.rpc: Rpc
        self.reach: Reach
        self.probes: Probes
        self.directory: Directory

    @classmethod
    def start(cls, identity: Identity, config: NodeConfig | None = None, door: Door | None = None) -> Self:
        """Start p2pd and join the swarm at `config.bootstrap`, or start a swarm of one.

        Args:
            identity: the key of this peer; `close` releases it.
            door: decides who may talk with this peer; None: everyone may.

        Raises:
            UsageError: an address to listen at is no multiaddr.
            NetworkError: this machine can't listen, nobody answers, or the peers that answer speak another protocol.
            AccessError: the swarm is private, and this peer is not let in.
        """
        swarm = cls(identity, config or NodeConfig(), door or Door())
        swarm._thread.start()
        try:
            swarm.run(swarm._start(), START_TIMEOUT)
        except BaseException as error:
            swarm.close()
            if isinstance(error, TimeoutError):
                raise NetworkError("the network did not start", f"not ready after {START_TIMEOUT:.0f} s") from None
            raise
        atexit.register(swarm.close)
        return swarm

    def run(self, work: Coroutine[Any, Any, Result], timeout: float | None = None) -> Result:
        """Run a coroutine on the network thread and wait for its result. After `timeout` seconds it is
        cancelled, and TimeoutError is raised."""
        future = self.submit(work)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise TimeoutError(f"not done after {timeout} s") from None

    def submit(self, work: Coroutine[Any, Any, Result]) -> concurrent.futures.Future[Result]:
        """Start a coroutine on the network thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start background work that should never fail; call this on the network thread. If it fails, `check`
        raises."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._notice_failure)
        return task

    def _notice_failure(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._closed:
            if isinstance(error, P2PTrainError):
                log.error("%s", error.brief)
            else:
                log.error("background work failed", exc_info=error)
            self._failure = self._failure or error

    def check(self) -> None:
        """Raise the error that ended background work, or the reason why this peer is not a member any more. The
        training thread calls this regularly, and so does everything that waits."""
        if failure := self._failure or self.door.expelled:
            raise failure

    def addresses(self) -> list[str]:
        """The multiaddrs at which others can reach this peer."""
        return self.run(self.node.addresses(), START_TIMEOUT)

    def close(self) -> None:
        """Leave the swarm: end p2pd, remove its sockets, end the thread, release the identity. A second call does
        nothing."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if self._thread.is_alive():
            try:
                self.run(self._stop(), START_TIMEOUT)
            finally:
                self.loop.call_soon_threadsafe(self.loop.stop)
                self._thread.join(START_TIMEOUT)
        self.identity.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # On the network thread -----------------------------------------------------------------------------------------

    def _loop_forever(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(_note_failure)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    async def _start(self) -> None:
        self.node = await Node.start(self.identity, self.config, self.door)
        self._to_close.push_async_callback(self.node.close)
        self.rpc = Rpc(self.node, self.door)
        await self.door.attach(self.node, self.rpc)
        await self.rpc.serve("hello", Hello, self._hello)
        self.probes = Probes(self.node, self.config)
        await self.probes.serve(self.rpc)
        first = await self.door.enter(set(by_peer(self.config.bootstrap)))
        await self._greet(first)
        self.reach = Reach(self.node, self.rpc, self.config, self.door)
        await self.reach.ask()
        hidden = self.config.passing or self.reach.verdict in ("relayed", "outgoing only")
        if first and not self.door.is_private:
            first |= await self.node.connected()  # with the relays: hidden peers do not answer in the DHT
        self.directory = await Directory.join(self.node, first, self.door, hidden)
        self._to_close.push_async_callback(self.directory.close)
        self.spawn(self.reach.keep())
        self.spawn(self.door.keep())
        self.spawn(self.node.watch())

    async def _stop(self) -> None:
        with contextlib.suppress(StorageError):  # other parts report a full disk
            self.door.save()
        await self._to_close.aclose()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _hello(self, _peer: PeerId, _request: Hello) -> HelloAnswer:
        software, now = f"p2ptrain {version()}", clock.swarm_time()
        return HelloAnswer(software=software, oldest_protocol=PROTOCOL, newest_protocol=PROTOCOL, time=now)

    async def _ask_hello(self, peer: PeerId) -> tuple[HelloAnswer, float]:
        """A peer's answer to `Hello`, and this machine's time halfway between question and answer."""
        asked = time.time()
        answer = await self.rpc.call(peer, "hello", Hello(), HelloAnswer, tries=3)
        return answer, (asked + time.time()) / 2

    async def _greet(self, peers: set[PeerId]) -> None:
        """Ask the first peers for their protocol, and adopt the swarm's time from them."""
        if not peers:
            return
        answers = (await ask_all({peer: self._ask_hello(peer) for peer in peers}, IDLE_TIMEOUT)).values()
        good = [answer for answer in answers if isinstance(answer, tuple)]
        if not good:
            failure = next(answer for answer in answers if isinstance(answer, BaseException))
            if not isinstance(failure, RpcError | TimeoutError):
                raise failure
            if isinstance(failure, RpcError) and failure.detail == STRANGER:
                raise AccessError(
                    "this run is private", "the invite holds no key", "ask an owner of the run for an invite for you"
                )
            foreign = isinstance(failure, RpcError) and failure.reason in ("unknown method", "malformed")
            stranger = "a program that is not a p2ptrain peer answers at the swarm's address"
            what = stranger if foreign else "the swarm does not answer"
            raise NetworkError(what, str(failure), "ask for a newer invite")
        speakers = [each for each in good if each[0].oldest_protocol <= PROTOCOL <= each[0].newest_protocol]
        if not speakers:
            other = good[0][0]
            raise NetworkError(
                "the swarm speaks another version of the protocol",
                f"{other.software} there speaks {other.oldest_protocol} to {other.newest_protocol}, "
                f"p2ptrain {version()} here speaks {PROTOCOL}",
                "update the older of the two",
            )
        offset = clock.adopt([(answer.time, now) for answer, now in speakers])
        if abs(offset) > NOTABLE_CLOCK_ERROR:
            log.warning("this machine's clock differs from the swarm's by %.0f minutes", offset / 60)


def _note_failure(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of work that nobody waits for. When p2pd ends, hivemind's work fails with OSErrors; that p2pd has
    ended is reported elsewhere, so these go to the debug log."""
    error = context.get("exception")
    log.log(logging.DEBUG if isinstance(error, OSError) else logging.ERROR, "%s", context["message"], exc_info=error)


def version() -> str:
    """The version of the installed p2ptrain."""
    return importlib.metadata.version("p2ptrain")
