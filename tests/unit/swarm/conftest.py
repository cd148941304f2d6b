"""Real swarms on loopback, several in this one process, always closed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2ptrain.run import digest_of
from p2ptrain.swarm import Identity, NodeConfig, Swarm, membership
from tests.unit.swarm.members import Member

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class Swarms:
    """Starts nodes and closes them all in the end, also those that a failed test left behind."""

    def __init__(self, home: Path) -> None:
        self._home, self._numbers = home, itertools.count(1)
        self._started: list[Swarm] = []

    def identity(self) -> Identity:
        return Identity.open(self._home / f"{next(self._numbers)}.key")

    def start(
        self, *bootstrap: str, listen: str = LOOPBACK, kind: type[Swarm] = Swarm, identity: Identity | None = None
    ) -> Swarm:
        return self.run(NodeConfig(listen=(listen,), bootstrap=bootstrap), kind, identity)

    def run(self, config: NodeConfig, kind: type[Swarm] = Swarm, identity: Identity | None = None) -> Swarm:
        swarm = kind.start(identity or self.identity(), config)
        self._started.append(swarm)
        return swarm

    def join(self, other: Swarm, kind: type[Swarm] = Swarm) -> Swarm:
        return self.start(*other.addresses(), kind=kind)

    def close(self) -> None:
        for swarm in reversed(self._started):
            swarm.close()


@pytest.fixture
def swarms(tmp_path: Path) -> Iterator[Swarms]:
    started = Swarms(tmp_path)
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Swarm, Swarm]]:
    """Two nodes that know each other, for tests that leave them unharmed."""
    started = Swarms(tmp_path_factory.mktemp("identities"))
    try:
        first = started.start()
        yield first, started.join(first)
    finally:
        started.close()


@pytest.fixture
def every_call_comes_to_an_end(pair: tuple[Swarm, Swarm]) -> Iterator[None]:
    yield
    eventually(lambda: not any(swarm.rpc._places.running for swarm in pair))


@pytest.fixture
def gate(pair: tuple[Swarm, Swarm]) -> Iterator[asyncio.Event]:
    """What a handler of the first peer may wait for: it is closed until the test has ended."""
    event = asyncio.Event()
    yield event
    pair[0].loop.call_soon_threadsafe(event.set)


def daemon_of(swarm: Swarm) -> int:
    """The process id of its p2pd."""
    pid: int = swarm.node.daemon._child.pid
    return pid


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what no event announces."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def members(
    pair: tuple[Swarm, Swarm], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Member, Member]]:
    """Two peers that beat twenty times a second and see each other, in a run of this test's own."""
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(membership, "LOOK_SECONDS", 0.05)
    run = digest_of(request.node.name.encode())
    first, second = Member(pair[0], run), Member(pair[1], run)
    try:
        first.ears.wait_for("live", {second.swarm.peer_id: "training"})
        second.ears.wait_for("live", {first.swarm.peer_id: "training"})
        yield first, second
    finally:
        first.leave()
        second.leave()
