"""How soon a newcomer to a one-byte run measures: python -m benchmarks.one_byte_join [--records 10000]

A founder of a 22 M parameter encoder says so many records at once, applies them and goes on measuring; then a
newcomer's process is started. Told are the seconds from its start, imports included, to the end of its first
measurement: once with snapshots at marks, and once with none but the base, so that it replays every record. Both peers
share this machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import p2ptrain
from benchmarks.one_byte_speed import encoder
from benchmarks.report import report
from p2ptrain.run import RunSpec
from p2ptrain.swarm import NodeConfig

AGAIN = (sys.executable, "-m", "benchmarks.one_byte_join")
NETWORK = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",))
NEVER = 10**6


def make(run: p2ptrain.Run) -> tuple[p2ptrain.OneByteSPSA, tuple[torch.Tensor, torch.Tensor]]:
    model = encoder()
    batch = torch.randint(0, 30522, (16, 48)), torch.randint(0, 2, (16,))
    return p2ptrain.OneByteSPSA(model, lambda rows: model(input_ids=rows[0], labels=rows[1]).loss, run), batch


def measure(records: int, mark_every: int) -> dict[str, object]:
    spec = RunSpec.custom("join", method="spsa", lr=1e-5, mark_every=mark_every)
    threads = max(1, (os.cpu_count() or 1) // 2)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as home, p2ptrain.Run.found(spec, config=NETWORK, home=Path(home) / "0") as run:
        spsa, batch = make(run)
        with spsa:
            spsa.wait_until_ready()
            for _ in range(records):
                spsa.exchange.say(random.choice((-1, 1)) * random.randint(1, 40), 0)
            while spsa.records < records:
                spsa.step(batch)
            began = time.monotonic()
            command = [*AGAIN, "--join", str(run.invite()), "--home", f"{home}/1"]
            with subprocess.Popen([*command, "--threads", str(threads)], stdout=subprocess.PIPE, text=True) as newcomer:
                assert newcomer.stdout is not None
                os.set_blocking(newcomer.stdout.fileno(), False)
                while not (line := newcomer.stdout.readline()) and newcomer.poll() is None:
                    spsa.step(batch)
                seconds = time.monotonic() - began
            found = json.loads(line)
    what = "base alone" if mark_every == NEVER else f"a snapshot every {mark_every}"
    return {"what": what, "s to the first measurement": seconds, "records applied": found["records"]}


def join(invite: str, home: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    with p2ptrain.Run.join(invite, config=NETWORK, home=home) as run:
        spsa, batch = make(run)
        with spsa:
            spsa.wait_until_ready()
            spsa.step(batch)
            print(json.dumps({"records": spsa.records}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--join", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.join:
        join(given.join, given.home, given.threads)
        return
    rows = [measure(given.records, mark_every) for mark_every in (2048, NEVER)]
    report("one_byte_join", rows, [f"{given.records} records, 22 M parameters, two peers on {os.cpu_count()} cores"])


if __name__ == "__main__":
    main()
