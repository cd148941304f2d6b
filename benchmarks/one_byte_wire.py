"""What one byte costs on the wire and on disk: sudo python -m benchmarks.one_byte_wire [--seconds 60]

- the size of a signed batch of 64 records, as it is published;
- what the sockets of 3 and of 6 peers carry for each gradient, everything included (heartbeats, gossip duplicates,
  pulls, encryption, TCP and IP): each peer in a network namespace of its own, counted at its interface;
- the ledger of a million records on disk.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import report
from p2ptrain.run import Digest, SigningKey
from p2ptrain.spsa.messages import FIRST, LogBatch
from p2ptrain.state import Ledger
from p2ptrain.state.logs import BatchRow, Log
from tests.swarm.lab import Lab, Peer
from tests.swarm.namespaces import Network, reason_not
from tests.swarm.one_byte import wait_for_records, write_spec

RECORDS = 1_000_000
FLUSH_SECONDS = 5.0


def batch_bytes() -> int:
    key = SigningKey.generate()
    batch = LogBatch(Log(key.peer_id, bytes(8)), 2**32, 2**32, bytes(range(64)))
    return len(batch.signed(Digest(bytes(32)), FIRST, key).encoded)


def ledger_bytes(folder: Path) -> int:
    """Of a million records in batches of 64, after everything was written."""
    path, log = folder / "ledger.sqlite", Log(SigningKey.generate().peer_id, bytes(8))
    ledger = Ledger(path)
    stored = bytes(5) + bytes(range(64)) + bytes(64)
    rows = [BatchRow(log, start, start + 64, stored) for start in range(0, RECORDS, 64)]
    for at in range(0, len(rows), 64):
        ledger.logs.append(rows[at : at + 64])
    ledger.close()
    return path.stat().st_size


@dataclass(frozen=True)
class Count:
    """Where the counters stand."""

    carried: int
    """Bytes that have left the interfaces of all peers."""
    records: int
    at: float

    @classmethod
    def of(cls, network: Network, peer: Peer) -> Count:
        counter = "/sys/class/net/eth0/statistics/tx_bytes"
        told = [
            subprocess.run([*place.prefix, "cat", counter], capture_output=True, text=True, check=True).stdout
            for place in network.places
        ]
        records = max(event["height"] for event in peer.events if event["event"] == "progress")
        return cls(sum(map(int, told)), records, time.monotonic())


def measure_swarm(peers: int, seconds: float) -> dict[str, object]:
    """Bytes at the interfaces of all peers for each record of theirs."""
    with tempfile.TemporaryDirectory() as home, Network(peers) as network:
        lab = Lab(Path(home))
        try:
            spec = write_spec(lab.home, min_peers=peers, mark_every=4096)
            text = spec.read_text().replace("flush_seconds = 0.3", f"flush_seconds = {FLUSH_SECONDS}")
            spec.write_text(text.replace("flush_records = 16", "flush_records = 64"))
            first = lab.found(spec, place=network.places[0], fault="steady")
            running = [first, *(lab.join(first, place=place, fault="steady") for place in network.places[1:])]
            for peer in running:
                peer.wait_for("training", timeout=120)
            wait_for_records(first, 200, timeout=120)
            before = Count.of(network, first)
            time.sleep(seconds)
            now = Count.of(network, first)
        finally:
            lab.close()
    records, carried, took = now.records - before.records, now.carried - before.carried, now.at - before.at
    return {
        "peers": peers,
        "gradients/s": records / took,
        "bytes/gradient": carried / records,
        "bytes/gradient and receiver": carried / records / (peers - 1),
        "kB/s each": carried / took / peers / 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    if reason := reason_not():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        size = ledger_bytes(Path(folder))
    rows = [measure_swarm(peers, given.seconds) for peers in (3, 6)]
    report(
        "one_byte_wire",
        rows,
        [
            f"a signed batch of 64 records takes {batch_bytes()} bytes, {batch_bytes() / 64:.2f} for each",
            f"the ledger of {RECORDS:,} records takes {size / 1e6:.2f} MB",
            f"flushed after 64 records or {FLUSH_SECONDS:g} s",
        ],
    )


if __name__ == "__main__":
    main()
