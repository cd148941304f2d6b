"""What exchanging costs a peer: inner steps/s alone, in a swarm of two with overlap = "free", and with overlap = 0.

    python -m benchmarks.overlap [--turns 3] [--seconds 20]

Two processes run in every case, so that all cases share the machine alike; alone means that neither has a network.
The cases take turns in one run, and the figures to look at are the ratios within a turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks.report import report
from p2ptrain.commands.children import Children
from p2ptrain.commands.demo import LOOPBACK, SILENCE, measure_alone
from p2ptrain.run import recipes

PEERS = 2


def spec_with(overlap: str, folder: Path) -> Path:
    """The quickstart with another overlap and no evaluations."""
    text = recipes()["quickstart"].read_text()
    text = text.replace('name = "diloco"', f'name = "diloco"\noverlap = {overlap}').replace(
        "every = 8", "every = 100000"
    )
    path = folder / f"overlap-{overlap.strip(chr(34))}.toml"
    path.write_text(text + f"\n[swarm]\nmin_peers = {PEERS}\n")
    return path


def measure_swarm(children: Children, spec: Path, seconds: float, *options: str) -> float:
    """Inner steps per second of a peer in a swarm of two, mean of both, over their common time."""
    common = (*options, *LOOPBACK)
    children.start("peer-1", "peer", str(spec), *common)
    first: dict[str, dict[str, float]] = {}
    last: dict[str, dict[str, float]] = {}
    for name, line in children.lines(SILENCE):
        if line["event"] == "started" and name == "peer-1":
            children.start("peer-2", "join", line["invite"], *common)
        if line["event"] == "progress" and line["seconds"] > 3:
            first.setdefault(name, line)
            last[name] = line
            if len(first) == PEERS and all(last[peer]["seconds"] - first[peer]["seconds"] >= seconds for peer in first):
                break
    children.stop("peer-1", "peer-2")
    rates = [
        (last[peer]["steps"] - first[peer]["steps"]) / (last[peer]["seconds"] - first[peer]["seconds"])
        for peer in first
    ]
    return statistics.mean(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    threads = str(max(1, (os.cpu_count() or 1) // PEERS))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        free, blocking = spec_with('"free"', folder), spec_with("0", folder)
        for turn in range(1, options.turns + 1):
            with Children(folder) as children:
                alone = measure_alone(children, str(free), PEERS, threads, options.seconds)
                in_free = measure_swarm(children, free, options.seconds, "--threads", threads)
                in_blocking = measure_swarm(children, blocking, options.seconds, "--threads", threads)
            rows.append(
                {
                    "turn": turn,
                    "alone": alone,
                    "free": in_free,
                    "overlap 0": in_blocking,
                    "free / alone": in_free / alone,
                    "overlap 0 / alone": in_blocking / alone,
                }
            )
            print(rows[-1], flush=True)
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key != "turn"}
    report("overlap", [*rows, {"turn": "median", **median}], ["inner steps/s of one peer, mean of both"])


if __name__ == "__main__":
    main()
