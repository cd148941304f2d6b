"""What `run.needs` reckons, held against the peaks of real peers on a CPU."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from p2ptrain.run import load_spec
from p2ptrain.run.needs import Needs, needs_of
from tests.swarm.lab import REPOSITORY, Lab, Peer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's peak")

SPEC = """
[run]
name = "needs"
[model]
architecture = "llama"
{trainable}
[model.config]
hidden_size = {hidden}
intermediate_size = {intermediate}
num_hidden_layers = {layers}
num_attention_heads = 8
tie_word_embeddings = true
[data]
source = "files"
paths = ["{data}"]
sequence_length = 32
held_out = 0.2
[method]
{method}
[limits]
rollback_depth = 8
[eval]
every = 4
sequences = 16
[swarm]
min_peers = {peers}
"""
DILOCO = {"name": "diloco", "schedule": "constant", "lr": 1e-4, "inner_steps": 8, "fragments": 4, "snapshot_every": 4}
SPSA = {"name": "spsa", "lr": 1e-4, "epsilon": 1e-2, "clip": 8.0, "flush_seconds": 0.5, "mark_every": 16}
HEIGHTS, MARKS = 8, 2
TOLERANCE = 0.15


class Peak(threading.Thread):
    """The most main memory that a peer and its p2pd have had in use, until the peer ends: the kernel's own account of
    the one, and what the other has at each look. (The kernel's account of p2pd begins with what its parent had.)"""

    def __init__(self, peer: Peer) -> None:
        super().__init__(daemon=True)
        self._peer, self._own, self._daemon = peer, 0, 0
        self.start()

    def run(self) -> None:
        process = psutil.Process(self._peer.process.pid)
        while self._peer.process.poll() is None:
            with contextlib.suppress(OSError, psutil.Error):
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM"):
                        self._own = int(line.split()[1]) * 1024
                programs = [child for child in process.children() if "p2pd" in child.name()]
                self._daemon = max(self._daemon, sum(child.memory_info().rss for child in programs))
            time.sleep(0.05)

    def bytes(self) -> int:
        self.join()
        return self._own + self._daemon


class Watched:
    """Peers that begin one run together, each with its peak."""

    def __init__(
        self, lab: Lab, method: dict[str, Any], hidden: int, layers: int, trainable: str = "", peers: int = 1
    ) -> None:
        self._lab, self._method, self._peers = lab, method["name"], list[tuple[Peer, Peak]]()
        self._spec = lab.home / "needs.toml"
        self._spec.write_text(
            SPEC.format(
                data=REPOSITORY / "p2ptrain" / "**" / "*.py",
                hidden=hidden,
                intermediate=11 * hidden // 4,
                layers=layers,
                peers=peers,
                trainable=f"trainable = [{json.dumps(trainable)}]" if trainable else "",
                method="\n".join(f"{name} = {json.dumps(value)}" for name, value in method.items()),
            )
        )
        self.founder = self._watched(lab.found(self._spec, "--batch-size", "1"))
        for _ in range(peers - 1):
            self._watched(lab.join(self.founder, "--batch-size", "1"))

    def _watched(self, peer: Peer) -> Peer:
        self._peers.append((peer, Peak(peer)))
        return peer

    def train_and_stop(self) -> None:
        """Until each peer has made snapshots and, with DiLoCo, a checkpoint."""
        for peer, _ in self._peers:
            if self._method == "diloco":
                peer.wait_for_height(HEIGHTS, timeout=400)
            else:
                for _ in range(MARKS):
                    peer.wait_for("mark", timeout=400, after=time.monotonic())
        for peer, _ in self._peers:
            peer.signal(signal.SIGINT)
        assert [peer.exit_code(120) for peer, _ in self._peers] == [0] * len(self._peers)

    def resume(self) -> None:
        """The founder, alone, until it has made a mark or taken in a commit: a mark takes most in a one-byte run."""
        self._peers = []
        folder = self.founder.folder
        peer = self._watched(self._lab.found(folder, "--batch-size", "1"))
        peer.wait_for("training", timeout=400)
        peer.wait_for("commit" if self._method == "diloco" else "mark", timeout=200)
        peer.signal(signal.SIGINT)
        assert peer.exit_code(120) == 0

    def needs(self) -> Needs:
        """As the peers' own first words count the model."""
        told = self.founder.wait_for("loading")
        return needs_of(load_spec(self._spec), told["parameters"], told["trained"], on_gpu=False, contributors=3)

    def check(self) -> None:
        need = self.needs().host
        for peer, peak in self._peers:
            found = peak.bytes()
            assert abs(found / need - 1) <= TOLERANCE, f"{found / 1e6:.0f} MB instead of {need / 1e6:.0f}, {peer.id}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", [DILOCO, SPSA], ids=lambda method: method["name"])
def test_a_peer_alone_takes_the_memory_that_was_reckoned(method: dict[str, Any], lab: Lab) -> None:
    """Ten million parameters, so that the model's part is more than the program's."""
    watched = Watched(lab, method, hidden=512, layers=3)
    watched.train_and_stop()
    watched.check()


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "method",
    [DILOCO, DILOCO | {"fragments": 1, "inner_steps": 4}, DILOCO | {"fragments": 2, "codec": "fp32"}, SPSA],
    ids=["diloco", "one fragment", "fp32", "spsa"],
)
def test_peers_together_and_a_peer_that_resumes_take_what_was_reckoned(method: dict[str, Any], lab: Lab) -> None:
    watched = Watched(lab, method, hidden=512, layers=6, peers=3)
    watched.train_and_stop()
    watched.check()
    folder = watched.founder.folder
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= watched.needs().disk
    watched.resume()
    watched.check()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", [DILOCO | {"fragments": 1}, SPSA], ids=lambda method: method["name"])
def test_weights_that_are_not_trained_take_four_bytes(method: dict[str, Any], lab: Lab) -> None:
    watched = Watched(lab, method, hidden=1024, layers=8, trainable="*.layers.0.*")
    watched.train_and_stop()
    watched.check()
