"""What a bootstrap node needs while many peers are in its swarm.

    python -m benchmarks.bootstrap_load [--peers 200] [--seconds 300] [--runs 4]

The node is a real `p2ptrain bootstrap` in a process of its own, with its p2pd. Each of the peers is a libp2p peer of
its own, a p2pd process with an identity, which does what a peer of a run does at a bootstrap node: it connects, greets
it by a call, joins the DHT, and then puts its signed presence there every 20 s and looks up who is in its run.

What is left out is what a bootstrap node has no part in (training, heartbeats over gossip), and two things that so
many peers on one machine can't afford. Their p2pd runs without gossip and relay. And they are clients of the DHT: all
their records are kept by this one node, and all lookups asked of it, where in a real swarm the peers carry most of
both. So the node does more here than its share. The peers' Python side is one process with one asyncio loop: the times
of stores and lookups hold its own queue.

One row for each 30 s: memory (resident, of the node's Python and of its p2pd), connections as the node counts them, and
how long peers' stores and lookups took.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import queue
import secrets
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from p2ptrain.lean import spare_torch

spare_torch()  # the peers' one process does not train, either

from hivemind.dht.node import DHTNode  # noqa: E402

from p2ptrain.commands.children import Child  # noqa: E402
from p2ptrain.errors import NetworkError  # noqa: E402
from p2ptrain.run import NO_DIGEST, Digest, PeerId, digest_of  # noqa: E402
from p2ptrain.swarm import Identity, Invite, NodeConfig, Presence, Rpc  # noqa: E402
from p2ptrain.swarm.addresses import peer_of  # noqa: E402
from p2ptrain.swarm.directory import Directory, _OnlySelfCertifying  # noqa: E402
from p2ptrain.swarm.door import Door  # noqa: E402
from p2ptrain.swarm.node import Node  # noqa: E402
from p2ptrain.swarm.swarm import Hello, HelloAnswer  # noqa: E402

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
ANNOUNCE_SECONDS = 20.0
ROW_SECONDS = 30.0
STARTING_AT_ONCE = 2
START_SECONDS = 60.0
ATTEMPTS = 5
MEMORY_LEFT = 3e9
SMALL = {"GOMAXPROCS": "1", "GOGC": "25"}
"""For the peers' p2pd alone."""
LIGHT = tuple((flag, "0") for flag in ("pubsub", "dhtServer", "autonat", "relay", "relayService", "connManager"))


@dataclass
class Times:
    """What the peers measured since the last row, in seconds."""

    store: list[float] = field(default_factory=list)
    look: list[float] = field(default_factory=list)
    found: list[float] = field(default_factory=list)
    """Of a run's peers that should be there, the part that a lookup returned."""
    failed: int = 0

    def clear(self) -> None:
        self.store, self.look, self.found, self.failed = [], [], [], 0


class Peer:
    """One libp2p peer in one run."""

    def __init__(self, node: Node, directory: Directory, identity: Identity, run: Digest, greeted: PeerId) -> None:
        self._node, self._directory, self._identity, self._run = node, directory, identity, run
        self._greeted = greeted
        self._beat = 0
        self._session = secrets.token_bytes(8)

    @classmethod
    async def start(cls, key: Path, bootstrap: tuple[str, ...], run: Digest) -> Peer:
        identity, door = Identity.open(key), Door()
        try:
            node = await Node.start(identity, NodeConfig((LOOPBACK,), bootstrap=bootstrap, daemon_flags=LIGHT), door)
        except NetworkError:
            identity.close()
            raise
        greeted = peer_of(bootstrap[0])
        await Rpc(node, door).call(greeted, "hello", Hello(), HelloAnswer, timeout=START_SECONDS, tries=3)
        dht = await DHTNode.create(
            p2p=node.daemon,
            initial_peers=list(bootstrap),
            client_mode=True,
            strict=False,
            record_validator=_OnlySelfCertifying(),
        )
        return cls(node, Directory(dht, door), identity, run, greeted)

    async def live(self, times: Times, expected: int) -> None:
        """Announce and look up, for ever, at a phase of its own."""
        addresses = tuple(await self._node.addresses())
        while True:
            await self._directory.meet(self._greeted)  # who did not answer in 3 s is forgotten; peers meet it again
            began = time.perf_counter()
            stored = await self._directory.announce(self._presence(addresses))
            times.store.append(time.perf_counter() - began)
            times.failed += not stored
            began = time.perf_counter()
            seen = await self._directory.peers(self._run)
            times.look.append(time.perf_counter() - began)
            times.found.append(len(seen) / expected)
            await asyncio.sleep(ANNOUNCE_SECONDS)

    def _presence(self, addresses: tuple[str, ...]) -> Presence:
        self._beat += 1
        return Presence(
            author=self._identity.peer_id,
            run=self._run,
            session=self._session,
            beat=self._beat,
            phase="training",
            version="simulated",
            device="none",
            addresses=addresses,
            reachability="loopback",
            height=0,
            commit=NO_DIGEST,
            state=NO_DIGEST,
            weight=0,
            steps=0,
            tokens=0,
            tokens_per_second=0.0,
            loss=None,
            eval_height=0,
            eval_loss=None,
            held_out=NO_DIGEST,
            snapshots=(),
            bytes_sent=0,
            taken_back=0,
            name="",
            max_up=0,
            max_down=0,
        ).signed(self._identity.key)

    async def close(self) -> None:
        await self._node.close()
        self._identity.close()


class BootstrapNode:
    """The process that is measured."""

    def __init__(self, home: Path) -> None:
        self._lines: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._child = Child("node", ["bootstrap", "--listen", LOOPBACK, "--metrics", "127.0.0.1:0"], home, self._lines)
        _, line = self._lines.get(timeout=START_SECONDS)
        if line["event"] != "bootstrap":
            raise SystemExit((home / "node.err").read_text())
        self.addresses = Invite.parse(line["invite"]).addresses
        self._url = f"http://127.0.0.1:{line['metrics']}"

    def figures(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=60) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return {sample.name: sample.value for family in families for sample in family.samples}

    def close(self) -> None:
        self._child.stop()
        self._child.reap()


async def start_patiently(key: Path, bootstrap: tuple[str, ...], run: Digest) -> Peer:
    """A machine that is busy starting many may be too slow for one of them."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await Peer.start(key, bootstrap, run)
        except NetworkError as error:
            print(f"again: {error}", file=sys.stderr, flush=True)
    return await Peer.start(key, bootstrap, run)


@contextlib.asynccontextmanager
async def swarm_of(
    count: int, runs: list[Digest], folder: Path, bootstrap: tuple[str, ...]
) -> AsyncIterator[list[tuple[Peer, Digest]]]:
    """So many peers, all of whom end."""
    places = asyncio.Semaphore(STARTING_AT_ONCE)
    started: list[tuple[Peer, Digest]] = []
    began = time.perf_counter()

    async def start(number: int) -> None:
        run = runs[number % len(runs)]
        async with places:
            if memory_left() < MEMORY_LEFT:
                raise SystemExit(f"{len(started)} peers are all that this machine has the memory for")
            started.append((await start_patiently(folder / f"{number}.key", bootstrap, run), run))
        if len(started) % 20 == 0:
            print(f"{len(started)} peers after {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    try:
        await asyncio.gather(*map(start, range(count)))
        yield started
    finally:
        for at in range(0, len(started), 20):
            await asyncio.gather(*(peer.close() for peer, _ in started[at : at + 20]))


def memory_left() -> float:
    """Bytes that programs could still use here."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


async def measure(node: BootstrapNode, peers: int, seconds: float, runs: int, folder: Path) -> list[dict[str, Any]]:
    empty = node.figures()
    rows = [row("empty", empty, empty, Times(), 1.0)]
    ids = [digest_of(f"run {number}".encode()) for number in range(runs)]
    async with swarm_of(peers, ids, folder, node.addresses) as started:
        times = Times()
        sizes = {run: sum(theirs == run for _, theirs in started) for run in ids}
        lives = []
        for peer, run in started:
            lives.append(asyncio.create_task(peer.live(times, sizes[run])))
            await asyncio.sleep(ANNOUNCE_SECONDS / peers)  # they did not start at one moment
        times.clear()  # what was found while the runs filled is no measure
        before, at = await asyncio.to_thread(node.figures), 0.0
        while at < seconds:
            await asyncio.sleep(ROW_SECONDS)
            at += ROW_SECONDS
            figures = await asyncio.to_thread(node.figures)
            rows.append(row(f"{at:.0f} s", figures, before, times, ROW_SECONDS))
            print(rows[-1], file=sys.stderr, flush=True)
            before = figures
            times.clear()
            for life in lives:
                if life.done():
                    life.result()
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
    return rows


def row(at: str, now: dict[str, float], before: dict[str, float], times: Times, seconds: float) -> dict[str, Any]:
    python, daemon = now["process_resident_memory_bytes"] / 1e6, now["p2pd_process_resident_memory_bytes"] / 1e6
    used = sum(now[name] - before[name] for name in ("process_cpu_seconds_total", "p2pd_process_cpu_seconds_total"))
    moved = sum(now[name] - before[name] for name in ("p2pd_read_bytes_total", "p2pd_written_bytes_total"))
    return {
        "at": at,
        "peers": int(now["p2ptrain_peers_connected"]),
        "records": int(now["p2ptrain_dht_records"]),
        "python MB": python,
        "p2pd MB": daemon,
        "together MB": python + daemon,
        "cpu %": 100 * used / seconds,
        "KB/s": moved / 1e3 / seconds,
        "stores": len(times.store),
        "failed": times.failed,
        "store ms": _quantiles(times.store),
        "look ms": _quantiles(times.look),
        "found %": 100 * statistics.fmean(times.found) if times.found else 0.0,
    }


def _quantiles(seconds: list[float]) -> str:
    """The median and the 95th percentile, in milliseconds."""
    if len(seconds) < 2:
        return "-"
    return f"{1e3 * statistics.median(seconds):.0f} / {1e3 * statistics.quantiles(seconds, n=20)[-1]:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--runs", type=int, default=4)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as name:
        node = BootstrapNode(Path(name))
        try:
            os.environ.update(SMALL)
            rows = asyncio.run(measure(node, options.peers, options.seconds, options.runs, Path(name)))
        finally:
            node.close()
    from report import report  # it imports torch

    most = max(each["together MB"] for each in rows)
    report(
        "bootstrap_load",
        rows,
        [
            f"{options.peers} peers in {options.runs} runs; at most {most:.0f} MB for python and p2pd together",
            "store and look: median / 95th percentile as the peers see it, in ms, other peers' p2pd on the same cores",
        ],
    )


if __name__ == "__main__":
    main()
