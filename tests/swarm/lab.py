"""Real peers on loopback: each is a `p2ptrain` process whose JSON lines are read as they come."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[2]
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
START_SECONDS = 150.0

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs: what its command begins with, and where it listens; nowhere if that is empty."""

    prefix: tuple[str, ...] = ()
    listen: str = LOOPBACK


HERE = Place()
SNAPSHOT_EVERY = 8
SPEC = """
[run]
name = "tiny"
[model]
architecture = "llama"
[model.config]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
tie_word_embeddings = true
[data]
source = "files"
paths = ["{data}"]
sequence_length = 64
[method]
name = "diloco"
inner_steps = {inner_steps}
fragments = {fragments}
overlap = {overlap}
merge = "{merge}"
codec = "{codec}"
lr = 3e-3
warmup_steps = 10
schedule = "{schedule}"
{total_steps}
snapshot_every = {snapshot_every}
[limits]
rollback_depth = {rollback_depth}
[eval]
every = 8
sequences = 16
[swarm]
min_peers = {min_peers}
"""


def write_spec(
    folder: Path,
    *,
    inner_steps: int = 40,
    fragments: int = 2,
    overlap: str | int = "free",
    merge: str = "blend",
    codec: str = "e3m0",
    total_steps: int | None = None,
    min_peers: int = 1,
    rollback_depth: int = 32,
) -> Path:
    """A run of a few thousand parameters on this repository's own text."""
    text = SPEC.format(
        snapshot_every=SNAPSHOT_EVERY,
        data=REPOSITORY / "p2ptrain" / "**" / "*.py",
        inner_steps=inner_steps,
        fragments=fragments,
        overlap=json.dumps(overlap),
        merge=merge,
        codec=codec,
        min_peers=min_peers,
        rollback_depth=rollback_depth,
        schedule="cosine" if total_steps else "constant",
        total_steps=f"total_steps = {total_steps}" if total_steps else "",
    )
    path = folder / "run.toml"
    path.write_text(text)
    return path


def environment(home: Path) -> dict[str, str]:
    """Of a peer's process."""
    return {
        **os.environ,
        "P2PTRAIN_HOME": str(home),
        "PYTHONPATH": str(REPOSITORY),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "P2PTRAIN_NO_LAN": "1",
    }


class Peer:
    """One process. Its events are kept in order; wait for those that matter."""

    def __init__(self, arguments: list[str], home: Path, fault: str = "", place: Place = HERE) -> None:
        program = ["-m", "tests.swarm.faulty", fault] if fault else ["-m", "p2ptrain"]
        self.process = subprocess.Popen(
            [*place.prefix, sys.executable, *program, *arguments],
            env=environment(home),
            cwd=home,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.events: list[Event] = []
        self.errors = ""
        self._changed = threading.Condition()
        self._readers = [threading.Thread(target=work, daemon=True) for work in (self._read_events, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.events.append(json.loads(line) | {"at": time.monotonic()})
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    def wait_for(
        self, name: str, where: Callable[[Event], bool] = lambda event: True, timeout: float = 60.0, after: float = 0.0
    ) -> Event:
        """The first event of that name that satisfies `where` and came after the monotonic time `after`."""
        deadline = time.monotonic() + timeout
        seen = 0
        with self._changed:
            while True:
                for event in self.events[seen:]:
                    if event["event"] == name and event["at"] > after and where(event):
                        return event
                seen = len(self.events)
                left = deadline - time.monotonic()
                if left <= 0 or (not self._readers[0].is_alive() and len(self.events) == seen):
                    recent = "\n".join(str(event) for event in self.events[-5:])
                    raise AssertionError(
                        f"no {name!r} event within {timeout} s; the last ones:\n{recent}\n{self.errors}"
                    )
                self._changed.wait(min(left, 1.0))

    @property
    def invite(self) -> str:
        return str(self.wait_for("started", timeout=START_SECONDS)["invite"])

    @property
    def id(self) -> str:
        return str(self.wait_for("started", timeout=START_SECONDS)["peer"])

    @property
    def folder(self) -> Path:
        return Path(self.wait_for("started", timeout=START_SECONDS)["folder"])

    def commits(self) -> dict[int, Event]:
        """The peer's last word on each height, without what it has taken back."""
        with self._changed:
            said = [event for event in self.events if event["event"] == "commit"]
        last: dict[int, Event] = {}
        for event in said:
            if event["rolled_back"]:
                fork = max(last, default=0) - event["rolled_back"]
                last = {height: word for height, word in last.items() if height <= fork}
            last[event["height"]] = event
        return last

    def wait_for_height(self, height: int, timeout: float = 60.0, after: float = 0.0) -> Event:
        return self.wait_for("commit", lambda event: event["height"] >= height, timeout, after)

    def wait_for_next_commit(self, timeout: float) -> Event:
        return self.wait_for("commit", timeout=timeout, after=time.monotonic())

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def daemon(self) -> int:
        """The process id of its p2pd."""
        [daemon] = psutil.Process(self.process.pid).children()
        return daemon.pid

    def exit_code(self, timeout: float = 60.0) -> int:
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(5)
        return code

    def reap(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(5)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()


def files_of(folder: Path) -> tuple[str, ...]:
    """The flags with which a volunteer lets a run read the files that its spec names; none if it names none."""
    try:
        data = json.loads((folder / "spec.json").read_bytes())["data"]
    except (OSError, ValueError):  # no run folder, or a test has damaged it
        return ()
    return tuple(part for name in data.get("paths", ()) for part in ("--data", name))


class Lab:
    """Starts peers and always ends them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.peers: list[Peer] = []

    def start(self, *arguments: str, fault: str = "", place: Place = HERE) -> Peer:
        """A process of any command with JSON lines."""
        peer = Peer([*arguments, "--json"], self.home, fault, place)
        self.peers.append(peer)
        return peer

    def found(self, spec: Path | str, *arguments: str, fault: str = "", place: Place = HERE) -> Peer:
        """A peer that begins a run, or goes on in its folder."""
        own = files_of(Path(spec)) if "--data" not in arguments else ()
        return self._train("peer", str(spec), *arguments, *own, fault=fault, place=place)

    def join(self, other: Peer, *arguments: str, fault: str = "", place: Place = HERE) -> Peer:
        """Reads what the founder reads: all are on one machine."""
        own = files_of(other.folder) if "--data" not in arguments else ()
        return self._train("join", other.invite, *arguments, *own, fault=fault, place=place)

    def command(self, *arguments: str) -> str:
        """What another command prints, beside the running peers."""
        environment = {**os.environ, "P2PTRAIN_HOME": str(self.home), "PYTHONPATH": str(REPOSITORY)}
        ended = subprocess.run(
            [sys.executable, "-m", "p2ptrain", *arguments],
            env=environment,
            cwd=self.home,
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def invite(self, owner: Peer, label: str) -> str:
        """A link into a private run."""
        return str(json.loads(self.command("invite", str(owner.folder), "--label", label, "--json"))["invite"])

    def join_privately(self, owner: Peer, link: str, *arguments: str, place: Place = HERE) -> Peer:
        return self._train("join", link, *files_of(owner.folder), *arguments, fault="", place=place)

    def _train(self, *arguments: str, fault: str, place: Place) -> Peer:
        where = ("--listen", place.listen) if place.listen else ("--no-listen",)
        return self.start(*arguments, *where, "--threads", "1", fault=fault, place=place)

    def close(self) -> None:
        for peer in self.peers:
            peer.reap()


def assert_agreement(*peers: Peer) -> None:
    """Equal heads mean equal bytes: wherever two peers have the same commit, they have the same state; and on the
    heights that all of them kept to the end of what they reported, they have the same commits."""
    states: dict[str, str] = {}
    for peer in peers:
        for event in peer.events:
            if event["event"] == "commit":
                assert states.setdefault(event["commit"], event["state"]) == event["state"]
    common = set.intersection(*(set(peer.commits()) for peer in peers))
    assert common, "the peers have no height in common"
    settled = sorted(common)[:-1] or sorted(common)  # the newest may still be contested
    for height in settled:
        assert len({peer.commits()[height]["commit"] for peer in peers}) == 1, f"height {height}"


def wait_until_gone(pid: int, timeout: float = 10.0) -> bool:
    """Whether a process ends within `timeout`."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False
