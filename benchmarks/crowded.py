"""Two peers of one run on one machine: inner steps/s of each as it is, and with a thread for each core in both.

    python -m benchmarks.crowded [--turns 3] [--seconds 20]

As it is a peer leaves cores to others that use them (`p2ptrain/peer/cores.py`); its first seconds, in which it has not
noticed yet, are measured, too. The cases take turns in one run; the figure to look at is the ratio within a turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks.overlap import measure_swarm, spec_with
from benchmarks.report import report
from p2ptrain.commands.children import Children


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = spec_with('"free"', folder)
        for turn in range(1, options.turns + 1):
            with Children(folder) as children:
                shared = measure_swarm(children, spec, options.seconds)
                each = measure_swarm(children, spec, options.seconds, "--threads", str(os.cpu_count() or 1))
            rows.append({"turn": turn, "as it is": shared, "a thread per core": each, "ratio": shared / each})
            print(rows[-1], flush=True)
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key != "turn"}
    report("crowded", [*rows, {"turn": "median", **median}], ["inner steps/s of one peer, mean of both"])


if __name__ == "__main__":
    main()
