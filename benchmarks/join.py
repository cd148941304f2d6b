"""How fast a newcomer gets the run's state, beside what libp2p carries at best and what hivemind makes of it.

    python -m benchmarks.join [--parameters 10 100] [--turns 3] [--json FILE]

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
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.join_sources import (
    DATA,
    FRAGMENTS,
    NETWORK,
    running,
    vector_files,
    write_spec,
    write_vectors,
)
from benchmarks.raw_stream import receive_raw
from benchmarks.report import machine, report
from benchmarks.roles import SILENCE
from p2ptrain.commands.children import Children
from p2ptrain.commands.demo import LOOPBACK
from p2ptrain.run import Digest, PeerId
from p2ptrain.state import Blobs, Fetcher
from p2ptrain.state.arrivals import VECTORS_AT_ONCE
from p2ptrain.swarm import Identity, NodeConfig, Swarm

SOURCES = (1, 3)
Seconds = float


# Bytes ---------------------------------------------------------------------------------------------------------------


class Newcomer:
    """This process's own node, and the two ways to get a state's bytes to it."""

    def __init__(self, swarm: Swarm, sources: Sequence[Any], size: int) -> None:
        self._swarm, self._size = swarm, size
        self._peers = [PeerId(source["peer"]) for source in sources]
        self._digests = [Digest(bytes.fromhex(digest)) for digest in sources[0]["digests"]]
        for source in sources:
            swarm.run(swarm.node.connect(PeerId(source["peer"]), source["addresses"]))

    def raw(self, sources: int) -> Seconds:
        async def receive_all() -> None:
            share = self._size // sources
            await asyncio.gather(*(receive_raw(self._swarm, peer, share) for peer in self._peers[:sources]))

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


# Joining -------------------------------------------------------------------------------------------------------------


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
    main()
