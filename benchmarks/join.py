"""How fast a newcomer gets the run's state, beside what libp2p carries at best and what hivemind makes of it.

    python benchmarks/join.py [--parameters 10 100] [--turns 3] [--json FILE]

For each size of model (in millions of parameters; a state is θ and momentum in fp32, 8 bytes a parameter), in one run
and with all sides taking turns, from one and from three other processes on loopback:

raw       plain bytes from memory through a stream of p2pd, read and thrown away: no digest, no memory to keep them.
          Three sources send a third each, at once.
fetch     `Fetcher.fetch` of the state's vectors, as many at once as a newcomer asks for, from files, every chunk
          checked by its sender and by its receiver.
hivemind  `DecentralizedAverager.load_state_from_peers` of the same vectors without compression; it asks one peer.
join      a real `p2ptrain join`: the rate at which the state arrives and is kept on disk, and the seconds from the
          start of the process to the end of its first inner step. Its sources are peers of a real run that have
          trained a commit for every fragment, so that nothing of the state can be computed instead of fetched, and
          then rest: on one machine they would take the newcomer's processor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from report import machine, report

import p2ptrain
from p2ptrain.peer.children import Children
from p2ptrain.peer.demo import LOOPBACK
from p2ptrain.run import CHUNK_BYTES, Digest, Manifest, PeerId
from p2ptrain.state import Blobs, Fetcher, serve
from p2ptrain.state.arrivals import VECTORS_AT_ONCE
from p2ptrain.state.blobs import FileSource
from p2ptrain.swarm import Identity, NodeConfig, Swarm

SOURCES = (1, 3)
FRAGMENTS = 4
STEPS_PER_ROUND = 1000
RAW = "/benchmark/raw"
SILENCE = 600.0
NETWORK = NodeConfig(listen=(LOOPBACK[1],))

SPEC = """
[run]
name = "benchmark"
[model]
architecture = "llama"
[model.config]
hidden_size = {hidden}
intermediate_size = {intermediate}
num_hidden_layers = {layers}
num_attention_heads = {heads}
tie_word_embeddings = true
[data]
source = "files"
paths = ["{data}"]
sequence_length = 16
[method]
name = "diloco"
inner_steps = {inner_steps}
fragments = {fragments}
schedule = "constant"
snapshot_every = {fragments}
[eval]
every = 1000000
"""

Seconds = float


# Processes -----------------------------------------------------------------------------------------------------------


class Role:
    """Another process of this script: it answers a line with a line, and ends with its input."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--role", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def answer(self) -> Any:
        line = self._lines.get(timeout=SILENCE)
        if not line:
            raise SystemExit(f"a process of the benchmark ended: {self._process.args}")
        return json.loads(line)

    def ask(self) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        with contextlib.suppress(ProcessLookupError):  # what hivemind has forked may outlive it
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def rest() -> None:
    sys.stdin.read()


# Bytes ---------------------------------------------------------------------------------------------------------------


def write_vectors(folder: Path, parameters: int) -> None:
    """A state's worth of random θ and momentum, one file for each vector."""
    random = np.random.default_rng(0)
    for number in range(2 * FRAGMENTS):
        random.standard_normal(parameters // FRAGMENTS, dtype=np.float32).tofile(folder / f"{number}.vector")


def vector_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.vector"))


def serve_vectors(folder: Path, key: Path, *bootstrap: str) -> None:
    """A source of `raw` and of `fetch`."""
    config = NodeConfig(listen=NETWORK.listen, bootstrap=bootstrap)
    with Swarm.start(Identity.open(key), config) as swarm:
        blobs = Blobs()
        digests = [
            blobs.hold_source(Manifest.of(path.read_bytes()), FileSource(path, 0), "benchmark").hex()
            for path in vector_files(folder)
        ]
        plain = memoryview(b"".join(path.read_bytes() for path in vector_files(folder)))

        async def send(_peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            count = int.from_bytes(await reader.readexactly(8), "big")
            for start in range(0, count, CHUNK_BYTES):
                writer.write(plain[start : min(start + CHUNK_BYTES, count)])
                await writer.drain()
            await reader.read()  # until the other side has closed

        swarm.run(serve(swarm.rpc, blobs))
        swarm.run(swarm.node.handle(RAW, send))
        tell(peer=swarm.peer_id, addresses=swarm.addresses(), digests=digests)
        rest()


class Newcomer:
    """This process's own node, and the two ways to get a state's bytes to it."""

    def __init__(self, swarm: Swarm, sources: Sequence[Any], size: int) -> None:
        self._swarm, self._size = swarm, size
        self._peers = [PeerId(source["peer"]) for source in sources]
        self._digests = [Digest(bytes.fromhex(digest)) for digest in sources[0]["digests"]]
        for source in sources:
            swarm.run(swarm.node.connect(PeerId(source["peer"]), source["addresses"]))

    def raw(self, sources: int) -> Seconds:
        async def receive(peer: PeerId, count: int) -> None:
            async with self._swarm.node.open_stream(peer, RAW) as (reader, writer):
                writer.write(count.to_bytes(8, "big"))
                while count:
                    data = await reader.read(CHUNK_BYTES)
                    if not data:
                        raise ConnectionError("the raw stream broke")
                    count -= len(data)

        async def receive_all() -> None:
            await asyncio.gather(*(receive(peer, self._size // sources) for peer in self._peers[:sources]))

        return seconds_of(lambda: self._swarm.run(receive_all()))

    def fetch(self, sources: int) -> Seconds:
        peers = self._peers[:sources]
        arrived = dict.fromkeys(self._digests, 0)

        async def fetch_all() -> None:
            fetcher, places = Fetcher(self._swarm.rpc, Blobs()), asyncio.Semaphore(VECTORS_AT_ONCE)

            async def fetch(digest: Digest) -> None:
                def progress(here: int, _: int) -> None:
                    arrived[digest] = here

                async with places:
                    await fetcher.fetch(digest, lambda: peers, "benchmark", progress=progress)

            await asyncio.gather(*map(fetch, self._digests))

        seconds = seconds_of(lambda: self._swarm.run(fetch_all()))
        if sum(arrived.values()) != self._size:
            raise ValueError("not everything has arrived")
        return seconds


def seconds_of(work: Callable[[], None]) -> Seconds:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# hivemind ------------------------------------------------------------------------------------------------------------


def serve_hivemind(folder: Path) -> None:
    import hivemind
    import torch

    dht = hivemind.DHT(host_maddrs=list(NETWORK.listen), start=True)
    tensors = [torch.from_numpy(np.fromfile(path, np.float32)) for path in vector_files(folder)]
    averager = hivemind.DecentralizedAverager(tensors, dht, prefix="benchmark", start=True)
    tell(addresses=[str(address) for address in dht.get_visible_maddrs()])
    rest()
    averager.shutdown()
    dht.shutdown()


def load_hivemind(folder: Path, *bootstrap: str) -> None:
    import hivemind
    import torch

    dht = hivemind.DHT(initial_peers=list(bootstrap), host_maddrs=list(NETWORK.listen), start=True)
    averager = hivemind.DecentralizedAverager(
        [torch.zeros(1)], dht, prefix="benchmark", start=True, allow_state_sharing=False
    )
    tell()
    for _ in sys.stdin:
        began = time.perf_counter()
        loaded = averager.load_state_from_peers()
        seconds = time.perf_counter() - began
        if loaded is None:
            raise ConnectionError("hivemind found no state")
        for tensor, path in zip(loaded[1], vector_files(folder), strict=True):
            if not np.array_equal(tensor.numpy(), np.fromfile(path, np.float32)):
                raise ValueError("hivemind's state has other bits")
        tell(seconds=seconds)
    averager.shutdown()
    dht.shutdown()


# Joining -------------------------------------------------------------------------------------------------------------


DATA = Path(p2ptrain.__file__).parent / "**" / "*.py"


def write_spec(path: Path, parameters: int) -> None:
    """A llama of about that size: 12·hidden² parameters in each layer, hidden = 64 times the number of layers."""
    heads = max(1, round((parameters / 12 / 64**2) ** (1 / 3)))
    hidden = 64 * heads
    text = SPEC.format(
        hidden=hidden, intermediate=hidden * 8 // 3, layers=max(1, round(parameters / 12 / hidden**2)), heads=heads,
        inner_steps=FRAGMENTS * STEPS_PER_ROUND, fragments=FRAGMENTS,
        data=DATA,
    )  # fmt: skip
    path.write_text(text)


def hold_run(home: Path, spec: str, invite: str = "") -> None:
    """A peer of a run that has trained until every fragment has changed, or has joined; now it rests."""
    from p2ptrain.diloco import StreamingDiLoCo
    from p2ptrain.peer.diloco_loop import make_optimizer
    from p2ptrain.peer.session import prepare_torch
    from p2ptrain.state.run import Run
    from p2ptrain.tasks import LocalOptions, open_task

    prepare_torch(threads=1)
    with Run.join(invite, config=NETWORK, home=home) if invite else Run.found(spec, config=NETWORK, home=home) as run:
        task = open_task(run.spec, LocalOptions(device="cpu", batch_size=1))
        task.load_data(0)
        optimizer = make_optimizer(task.model, run.spec.method)
        with StreamingDiLoCo(task.model, optimizer, run, held_out=task.held_out_digest) as diloco:
            diloco.wait_until_ready()
            for height in range(diloco.exchange.view.head.height + 1, FRAGMENTS + 1):
                task.loss(height).backward()
                optimizer.step()
                for _ in range(STEPS_PER_ROUND):  # the others would not change the size of the state
                    diloco.step(task.tokens_per_step)
                diloco.exchange.wait(lambda view, height=height: view.head.height >= height, SILENCE)
            diloco.halt()
            while not any(height == FRAGMENTS for height, _ in diloco.exchange.own_presence.snapshots):
                time.sleep(0.1)
            tell(invite=str(run.invite()), parameters=sum(p.numel() for p in task.model.parameters()))
            rest()


def join(folder: Path, invite: str) -> dict[str, float]:
    """A newcomer until its first steps: what it told, in seconds since it was started."""
    times: dict[str, float] = {}
    with Children(folder) as children:
        began = time.perf_counter()
        children.start("newcomer", "join", invite, "--batch-size", "1", "--data", str(DATA), *LOOPBACK)
        for _, line in children.lines(SILENCE):
            now = time.perf_counter() - began
            match line["event"]:
                case "preparing" | "started" | "training":
                    times[line.get("text", line["event"]).partition(" ")[0]] = now
                case "fetching" if line["bytes_here"] == line["bytes_total"] and "fetch" not in times:
                    times["fetch"], times["bytes"] = line["seconds"], line["bytes_total"]
                case "progress" if line["steps"] > 0:
                    times["first step"] = times["training"] + line["seconds"] / line["steps"]
                    break
                case "ended":
                    raise SystemExit("the newcomer ended before it trained")
    if not times.get("fetch"):
        raise ValueError("the newcomer has fetched nothing")
    return times


# All together --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(*arguments: Any) -> Iterator[tuple[Role, Any]]:
    role = Role(*map(str, arguments))
    try:
        yield role, role.answer()
    finally:
        role.close()


def measure_transfers(folder: Path, parameters: int, turns: int) -> list[dict[str, Seconds]]:
    """Seconds that a state took, by side and turn."""
    write_vectors(folder, parameters)
    size = sum(path.stat().st_size for path in vector_files(folder))
    with contextlib.ExitStack() as stack:
        sources: list[Any] = []
        for number in range(max(SOURCES)):
            first = sources[0]["addresses"] if sources else ()
            sources.append(stack.enter_context(running("vectors", folder, folder / f"{number}.key", *first))[1])
        their_source = stack.enter_context(running("hivemind", folder))[1]
        their_newcomer = stack.enter_context(running("hivemind-load", folder, *their_source["addresses"]))[0]
        config = NodeConfig(listen=NETWORK.listen, bootstrap=tuple(sources[0]["addresses"]))
        newcomer = Newcomer(stack.enter_context(Swarm.start(Identity.open(folder / "own.key"), config)), sources, size)
        sides: dict[str, Callable[[], Seconds]] = {}
        for count in SOURCES:
            sides[f"raw {count}"] = lambda count=count: newcomer.raw(count)
            sides[f"fetch {count}"] = lambda count=count: newcomer.fetch(count)
        sides["hivemind"] = lambda: float(their_newcomer.ask()["seconds"])
        results = []
        for turn in range(turns + 1):
            order = list(sides) if turn % 2 else list(sides)[::-1]
            seconds = {side: sides[side]() for side in order}
            if turn:  # in the one before, connections were opened and files read for the first time
                results.append({side: seconds[side] for side in sides})
                show(f"{size / 1e6:.0f} MB, MB/s", {side: size / 1e6 / seconds[side] for side in order})
        return results


def measure_joins(folder: Path, parameters: int, turns: int) -> tuple[int, list[dict[str, dict[str, float]]]]:
    """The model's real size, and a newcomer's times by number of sources and turn."""
    spec = folder / "run.toml"
    write_spec(spec, parameters)
    results: list[dict[str, dict[str, float]]] = [{} for _ in range(turns)]
    with contextlib.ExitStack() as stack:
        sources: list[Any] = []
        for count in SOURCES:
            while len(sources) < count:
                invite = sources[0]["invite"] if sources else ""
                sources.append(stack.enter_context(running("run", folder / f"home-{len(sources)}", spec, invite))[1])
            for turn in range(turns):
                with tempfile.TemporaryDirectory(dir=folder) as home:
                    results[turn][f"join {count}"] = times = join(Path(home), sources[0]["invite"])
                show(f"join from {count}", times)
        return sources[0]["parameters"], results


def show(what: str, figures: Mapping[str, float]) -> None:
    print(f"{what}:", ", ".join(f"{name} {value:.3g}" for name, value in figures.items()), flush=True)


def row(parameters: int, sources: int, transfers: Sequence[dict[str, Seconds]], joins: Sequence[Any]) -> dict[str, Any]:
    """Medians over the turns; ratios are those within a turn."""
    size = 8 * parameters / 1e6
    raw, ours = ([turn[f"{side} {sources}"] for turn in transfers] for side in ("raw", "fetch"))
    theirs = [turn["hivemind"] for turn in transfers]
    times = [turn[f"join {sources}"] for turn in joins]
    return {
        "parameters": f"{parameters / 1e6:g} M",
        "sources": sources,
        "raw MB/s": statistics.median(size / seconds for seconds in raw),
        "fetch MB/s": statistics.median(size / seconds for seconds in ours),
        "fetch / raw": statistics.median(r / f for r, f in zip(raw, ours, strict=True)),
        "hivemind MB/s": statistics.median(size / seconds for seconds in theirs),
        "fetch / hivemind": statistics.median(h / f for h, f in zip(theirs, ours, strict=True)),
        "join MB/s": statistics.median(turn["bytes"] / 1e6 / turn["fetch"] for turn in times),
        "join to first step s": statistics.median(turn["first step"] for turn in times),
    }


ROLES: dict[str, Callable[..., None]] = {
    "vectors": lambda folder, key, *bootstrap: serve_vectors(Path(folder), Path(key), *bootstrap),
    "hivemind": lambda folder: serve_hivemind(Path(folder)),
    "hivemind-load": lambda folder, *bootstrap: load_hivemind(Path(folder), *bootstrap),
    "run": lambda home, spec, invite: hold_run(Path(home), spec, invite),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, nargs="+", default=[10, 100], help="sizes, in millions")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures of every turn to this file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    rows, details, real_sizes = [], [], []
    for millions in options.parameters:
        parameters = round(millions * 1e6) // FRAGMENTS * FRAGMENTS
        with tempfile.TemporaryDirectory() as name:
            transfers = measure_transfers(Path(name), parameters, options.turns)
        with tempfile.TemporaryDirectory() as name:
            real_size, joins = measure_joins(Path(name), parameters, options.turns)
        real_sizes.append(f"{real_size / 1e6:.1f} M")
        details.append({"parameters": parameters, "joined": real_size, "seconds": transfers, "joins": joins})
        rows += [row(parameters, sources, transfers, joins) for sources in SOURCES]
    notes = [
        f"medians of {options.turns} turns; hivemind {version('hivemind')} asks one peer, whatever their number",
        f"the models that were joined have {', '.join(real_sizes)} parameters; joining includes Python's start",
    ]
    report("join", rows, notes)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows, "turns": details}, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--role"]:
        ROLES[sys.argv[2]](*sys.argv[3:])
    else:
        main()
