"""What tests of one-byte runs share: a small run, and what its peers must agree on."""

from __future__ import annotations

import time
from pathlib import Path

from p2ptrain.spsa.audit import Past
from p2ptrain.state import RunFolder
from tests.swarm.lab import REPOSITORY, Event, Peer

SPEC = """
[run]
name = "bytes"
[model]
architecture = "llama"
[model.config]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
tie_word_embeddings = true
[data]
source = "files"
paths = ["{data}"]
sequence_length = 32
[method]
name = "spsa"
lr = 2e-3
epsilon = 1e-2
clip = 8.0
flush_records = 16
flush_seconds = 0.3
mark_every = {mark_every}
{total}
[eval]
every = 8
sequences = 16
[swarm]
min_peers = {min_peers}
"""


def write_spec(folder: Path, *, total_records: int | None = None, min_peers: int = 1, mark_every: int = 256) -> Path:
    """A run of a few thousand parameters on this repository's own text."""
    total = f"total_records = {total_records}" if total_records else ""
    data = REPOSITORY / "p2ptrain" / "**" / "*.py"
    path = folder / "bytes.toml"
    path.write_text(SPEC.format(data=data, mark_every=mark_every, total=total, min_peers=min_peers))
    return path


def wait_for_records(peer: Peer, records: int, timeout: float = 90.0, after: float = 0.0) -> Event:
    return peer.wait_for("progress", lambda event: event["height"] >= records, timeout, after)


def wait_for_common_mark(*peers: Peer, after: float = 0.0, timeout: float = 90.0) -> int:
    """Records of the first mark after a monotonic time that all have reached; there, all have the same state."""
    deadline = time.monotonic() + timeout
    newest = 0.0
    while True:
        marks = [{place_of(event): event["state"] for event in peer.events if is_mark(event, after)} for peer in peers]
        for place in sorted(set.intersection(*map(set, marks))):
            assert len({mark[place] for mark in marks}) == 1, f"states differ at {place}"
            return place[0]
        left = deadline - time.monotonic()
        assert left > 0, f"no common mark within {timeout} s: {[sorted(mark) for mark in marks]}"
        newest = peers[0].wait_for("mark", timeout=left, after=max(newest, after))["at"]


def is_mark(event: Event, after: float) -> bool:
    return event["event"] == "mark" and event["at"] > after


def place_of(mark: Event) -> tuple[int, str]:
    """Its records and position: only where both are equal two peers have the same records, not just as many."""
    return mark["records"], mark["position"]


def assert_equal_marks(*peers: Peer) -> None:
    """Wherever two peers were at one mark, they had one state."""
    states: dict[tuple[int, str], set[str]] = {}
    for peer in peers:
        for event in peer.events:
            if event["event"] == "mark":
                states.setdefault(place_of(event), set()).add(event["state"])
    assert all(len(found) == 1 for found in states.values()), states


def records_in(folder: Path) -> dict[tuple[str, bytes], bytes]:
    """All records that a folder's ledger holds, log by log."""
    opened = RunFolder.open(folder, lock=False)
    try:
        past = Past(opened)
        return {
            (log.author, log.session): b"".join(batch.codes for batch in past.archive.batches(log))
            for log in past.book.lengths()
        }
    finally:
        opened.close()
