"""The other processes of `round.py`: a peer of ours, a peer of hivemind's, or one end of a raw stream.

Each tells first where the others find it, and then that it has started. It obeys three orders:

prepare   get ready for a round: new weights, and whatever comes before it
go        the round; the answer holds the moment of its end
usage     what the round has cost this process and those that it has started
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import hivemind
import psutil
import torch
from hivemind.averaging.control import AveragingStage, StepControl
from hivemind.compression import Float16Compression, NoCompression

from benchmarks.raw_stream import receive_raw, serve_raw
from benchmarks.roles import orders, tell
from p2ptrain import Run, RunSpec, StreamingDiLoCo
from p2ptrain.diloco.chain import Commit
from p2ptrain.run import CHUNK_BYTES, PeerId
from p2ptrain.swarm import Identity, NodeConfig, Swarm

LAYERS, WIDTH = 16, 256
"""The model that both sides average: so many matrices of that width. Its number of parameters is a multiple of both."""
NOISE = 0.01
LISTEN = ("/ip4/127.0.0.1/tcp/0",)
CYCLES_PER_SNAPSHOT = 16
SAMPLE = 64
COMPRESSIONS = {"none": NoCompression, "fp16": Float16Compression}

Facts = dict[str, Any]


class Peer(Protocol):
    def prepare(self, *arguments: str) -> Facts: ...
    def go(self) -> None: ...
    def facts(self) -> Facts: ...


# What a round costs ---------------------------------------------------------------------------------------------------


class Meter:
    """CPU time and peak memory of this process and of all that it has started by now: p2pd, and with hivemind two more
    Python processes. Reads what only Linux offers."""

    def __init__(self) -> None:
        own = psutil.Process()
        family = [own, *own.children(recursive=True)]
        self._daemons = [process.pid for process in family if process.name() == "p2pd"]
        self._pythons = [process.pid for process in family if process.pid not in self._daemons]
        self._cpu_before = 0.0

    def begin(self) -> None:
        for pid in (*self._daemons, *self._pythons):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        self._cpu_before = self._cpu()

    def end(self) -> Facts:
        """CPU seconds since `begin`; peak megabytes of the largest Python process and of p2pd."""
        cpu = self._cpu() - self._cpu_before
        return {"cpu": cpu, "python": max(map(_peak, self._pythons)), "p2pd": sum(map(_peak, self._daemons))}

    def _cpu(self) -> float:
        # The kernel's clock of a process, in nanoseconds; /proc would count in hundredths of a second.
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in (*self._daemons, *self._pythons))


def _peak(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def obey(peer: Peer) -> None:
    """Answer orders until there are no more."""
    meter = Meter()
    tell()
    for order, *arguments in orders():
        if order == "prepare":
            facts = peer.prepare(*arguments)
            meter.begin()
            tell(**facts)
        elif order == "go":
            peer.go()
            tell(ended=time.monotonic())
        else:
            tell(**meter.end(), **peer.facts())


# The model ------------------------------------------------------------------------------------------------------------


def build(parameters: int) -> torch.nn.Sequential:
    """The same weights in every process."""
    torch.manual_seed(0)
    shape = WIDTH, parameters // LAYERS // WIDTH
    layers = (torch.nn.utils.skip_init(torch.nn.Linear, *shape, bias=False) for _ in range(LAYERS))
    return torch.nn.Sequential(*layers).apply(_draw)


@torch.no_grad()
def _draw(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.Linear):
        module.weight.normal_(0, 0.02)


@torch.no_grad()
def perturb(tensors: Sequence[torch.Tensor]) -> None:
    """What stands for training: other noise in every process and round."""
    torch.seed()
    for tensor in tensors:
        tensor.add_(torch.randn_like(tensor), alpha=NOISE)


# Ours -----------------------------------------------------------------------------------------------------------------


class Ours:
    """A trainer that waits for each round: overlap = 0. One order to go averages all fragments once, in turn."""

    def __init__(self, run: Run, model: torch.nn.Module, diloco: StreamingDiLoCo) -> None:
        self._run, self._model, self._diloco = run, model, diloco
        self._fragments = run.spec.diloco.fragments

    def prepare(self) -> Facts:
        perturb(list(self._model.parameters()))
        return {"sent": self._run.swarm.node.sent.total()}

    def go(self) -> None:
        before = self._diloco.height
        for _ in range(self._fragments):
            self._diloco.step(tokens=1)
        if self._diloco.height != before + self._fragments:
            raise RuntimeError(f"the round did not end: height {self._diloco.height} after {before}")

    def facts(self) -> Facts:
        """Of every commit that was applied here, on any branch: its height and how many contributions it lists."""
        records = map(Commit.decode, self._run.folder.ledger.commits(0).values())
        commits = {commit.digest.hex(): [commit.height, len(commit.contributions)] for commit in records}
        return {"sent": self._run.swarm.node.sent.total(), "commits": commits}


@contextlib.contextmanager
def ours(home: str, parameters: int, peers: int, number_format: str, fragments: int, invite: str) -> Iterator[Ours]:
    settings = {"codec": number_format, "inner_steps": fragments, "fragments": fragments, "overlap": 0}
    settings["snapshot_every"] = CYCLES_PER_SNAPSHOT * fragments
    spec = RunSpec.custom("round", min_peers=peers, **settings)
    config = NodeConfig(listen=LISTEN)
    model = build(parameters)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with (
        Run.join(invite, config=config, home=home) if invite else Run.found(spec, config=config, home=home) as run,
        StreamingDiLoCo(model, optimizer, run) as diloco,
    ):
        tell(invite=str(run.invite()))
        diloco.wait_until_ready()
        yield Ours(run, model, diloco)


# hivemind -------------------------------------------------------------------------------------------------------------


class Theirs:
    """hivemind's averager. The group is found while it prepares; the round begins with the trigger."""

    def __init__(self, averager: hivemind.DecentralizedAverager, peers: int) -> None:
        self._averager, self._peers = averager, peers
        self._step: StepControl

    def prepare(self) -> Facts:
        with self._averager.get_tensors() as tensors:
            perturb(tensors)
        self._step = self._averager.step(wait=False, require_trigger=True)
        while self._step.stage is not AveragingStage.AWAITING_TRIGGER:
            if self._step.done():
                self._step.result()  # raises what went wrong
            time.sleep(0.02)
        return self._sample()

    def go(self) -> None:
        self._step.allow_allreduce()
        group = self._step.result()
        if len(group) != self._peers:
            raise RuntimeError(f"hivemind has averaged {len(group)} of {self._peers} peers")

    def facts(self) -> Facts:
        return self._sample()

    def _sample(self) -> Facts:
        with self._averager.get_tensors() as tensors:
            return {"sample": [float(tensor.view(-1)[at]) for tensor in tensors for at in range(SAMPLE)]}


@contextlib.contextmanager
def theirs(parameters: int, peers: int, number_format: str, invite: str) -> Iterator[Theirs]:
    tensors = [parameter.data for parameter in build(parameters).parameters()]
    dht = hivemind.DHT(initial_peers=[invite] if invite else [], host_maddrs=list(LISTEN), start=True)
    try:
        averager = hivemind.DecentralizedAverager(
            tensors,
            dht,
            prefix="round",
            target_group_size=peers,
            min_group_size=peers,
            compression=COMPRESSIONS[number_format](),
            allow_state_sharing=False,
            start=True,
        )
        try:
            tell(invite=str(dht.get_visible_maddrs()[0]))
            yield Theirs(averager, peers)
        finally:
            averager.shutdown()
    finally:
        dht.shutdown()


# A raw stream ---------------------------------------------------------------------------------------------------------


class RawSource:
    """Sends what it is asked for."""

    def prepare(self) -> Facts:
        return {}

    def go(self) -> None:
        """The other end does it all."""

    def facts(self) -> Facts:
        return {}


class RawReader:
    """Reads from the source what the order to prepare says, in bytes."""

    def __init__(self, swarm: Swarm, source: PeerId) -> None:
        self._swarm, self._source, self._count = swarm, source, 0

    def prepare(self, count: str) -> Facts:
        self._count = int(count)
        return {}

    def go(self) -> None:
        self._swarm.run(receive_raw(self._swarm, self._source, self._count))

    def facts(self) -> Facts:
        return {}


@contextlib.contextmanager
def raw_end(home: str, invite: str) -> Iterator[RawSource | RawReader]:
    """`invite` is the source's address; if it is empty, this process is the source."""
    config = NodeConfig(listen=LISTEN, bootstrap=(invite,) if invite else ())
    with Swarm.start(Identity.open(Path(home) / "own.key"), config) as swarm:
        serve_raw(swarm, os.urandom(64 * CHUNK_BYTES))
        tell(invite=swarm.addresses()[0])
        yield RawReader(swarm, PeerId(invite.rpartition("/")[2])) if invite else RawSource()


ROLES: dict[str, Callable[..., AbstractContextManager[Peer]]] = {"ours": ours, "hivemind": theirs, "raw": raw_end}


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("python -m benchmarks.round starts these processes")
    role, given = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(given.pop("threads"))
    with ROLES[role](**given) as peer:
        obey(peer)


if __name__ == "__main__":
    main()
