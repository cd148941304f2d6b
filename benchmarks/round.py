"""What a round costs, beside hivemind's averager and beside what the machine allows.

    python -m benchmarks.round [--sizes 1x2 10x2 25x4] [--codecs e3m0 int8 bf16 fp32] [--fragments 1 4] [--rounds 3]
                               [--turns 2] [--threads 1] [--short]

A size is the number of parameters, in millions, and the number of peers. For each size, every side trains in turn: real
peers on loopback, each in a process of its own, and no other side's at that time. Training is a little noise on the
weights.

ours      `StreamingDiLoCo` with overlap = 0, from the moment when all peers are ready to contribute until all have
          applied the commit and merged it. With P fragments, all P are averaged in turn, and a round is their sum.
hivemind  `DecentralizedAverager` without compression and with fp16, from the trigger until all have the average. It
          has found the group before, which is not counted.

The first round of each turn is left out. Times are medians over the others, with the least and the most beside them.
CPU seconds and memory are those of one peer: CPU with everything that its process has started, p2pd included, mean over
the peers; memory as the highest peak of a round, that of Python (with hivemind, of the largest of three processes) and
that of p2pd, for the peer that takes most.

sent      megabytes of a peer at its socket, by the counters of the loopback device: keep the machine quiet.
counted   megabytes that our node says it has sent.
commits   different commits for each height, as applied by any peer: 1 is right.
listed    the fewest contributions in one of these commits.
memcpy    seconds of one thread for copying half of the bytes that a peer's round must touch (a copy reads and writes).
raw       seconds for the payload bytes that a peer sends in a round, through one plain stream between two p2pd; and CPU
          seconds of both ends together.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import report
from benchmarks.roles import Role
from benchmarks.round_peers import LAYERS, WIDTH
from p2ptrain.diloco.codecs import CODECS

LARGEST_COPY = 256 * 2**20
REPEATS = 3
THEIR_BYTES = {"none": 4, "fp16": 2}
SHORT = {"sizes": ["1x2"], "rounds": 3, "turns": 1}

Facts = dict[str, Any]


@dataclass(frozen=True)
class Size:
    parameters: int
    peers: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """E.g. 25x4: 25 million parameters, 4 peers."""
        millions, _, peers = text.partition("x")
        unit = LAYERS * WIDTH
        size = cls(max(1, round(float(millions) * 1e6 / unit)) * unit, int(peers))
        if size.peers < 2:
            raise ValueError("a round needs two peers")
        return size

    def __str__(self) -> str:
        return f"{self.parameters / 1e6:.3g} M × {self.peers}"


@dataclass(frozen=True)
class Side:
    """Who averages, and how."""

    name: str
    number_format: str
    fragments: int

    def __str__(self) -> str:
        return f"{self.name} {self.number_format}" + (f", P = {self.fragments}" if self.name == "ours" else "")

    def payload_bytes(self, size: Size) -> int:
        """Bytes of all of a peer's weights in this format."""
        if self.name == "hivemind":
            return THEIR_BYTES[self.number_format] * size.parameters
        return self.fragments * CODECS[self.number_format].encoded_bytes(size.parameters // self.fragments)

    def sent_bytes(self, size: Size) -> int:
        """Payload bytes that a peer sends in a round: everything to everyone, or its part in an all-reduce."""
        others = size.peers - 1
        return self.payload_bytes(size) * others if self.name == "ours" else self._reduced_bytes(size)

    def touched_bytes(self, size: Size) -> int:
        """Bytes that a peer must read or write at least, if each vector is touched once wherever it is needed.

        Ours: encode (read θ and local; unless lossless, read and write the residual; write the payload), keep the
        others' payloads, decode all of them, outer step (read and write θ and momentum), merge (read and write local).
        hivemind: read the weights to send them, read and write them to apply the update, and both ways what is sent.
        """
        vector, payload = 4 * size.parameters, self.payload_bytes(size)
        if self.name == "hivemind":
            return 3 * vector + 2 * self._reduced_bytes(size)
        encode = (2 if CODECS[self.number_format].lossless else 4) * vector + payload
        return encode + (size.peers - 1) * payload + size.peers * payload + (4 + 2) * vector

    def _reduced_bytes(self, size: Size) -> int:
        return 2 * self.payload_bytes(size) * (size.peers - 1) // size.peers


FP16 = Side("hivemind", "fp16", 1)


@dataclass(frozen=True)
class Round:
    """One round as measured; bytes and CPU seconds of one peer, megabytes of the one that takes most."""

    wall: float
    cpu: float
    python: float
    p2pd: float
    sent: float
    counted: float | None


@dataclass
class Figures:
    """All rounds of one side at one size, and the commits that they made."""

    rounds: list[Round] = field(default_factory=list)
    commits: int = 0
    heights: int = 0
    listed: int | None = None


@dataclass(frozen=True)
class Limits:
    memcpy: float
    raw: float
    raw_cpu: float


# Processes ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def processes(role: str, count: int, threads: int, **given: Any) -> Iterator[list[Role]]:
    """That many processes of `round_peers`; the others find the first one. They have all started."""
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = {**dict.fromkeys(variables, str(threads)), "HIVEMIND_LOGLEVEL": "ERROR"}
    with contextlib.ExitStack() as stack:
        homes = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        roles: list[Role] = []

        def start(invite: str) -> None:
            own = {} if role == "hivemind" else {"home": str(homes / str(len(roles)))}
            arguments = json.dumps({**given, **own, "threads": threads, "invite": invite})
            roles.append(stack.enter_context(Role("benchmarks.round_peers", role, arguments, environment=environment)))

        start("")
        stack.callback(lambda: [each.hang_up() for each in roles])
        invite = roles[0].answer()["invite"]
        for _ in range(1, count):
            start(invite)
        for each in roles[1:]:
            each.answer()
        for each in roles:
            each.answer()
        yield roles


def ask_all(roles: Sequence[Role], order: str) -> list[Facts]:
    """Give an order to all before waiting for anybody."""
    for role in roles:
        role.order(order)
    return [role.answer() for role in roles]


def loopback_bytes() -> int:
    """Bytes that this machine has ever sent to itself."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.partition(":")[2].split()[8])


# Rounds ---------------------------------------------------------------------------------------------------------------


def measure(side: Side, size: Size, rounds: int, threads: int, figures: Figures) -> None:
    """Add a turn of one side: its rounds after the first one."""
    given: Facts = {"parameters": size.parameters, "peers": size.peers, "number_format": side.number_format}
    if side.name == "ours":
        given["fragments"] = side.fragments
    with processes(side.name, size.peers, threads, **given) as peers:
        for number in range(1 + rounds):
            measured, used = one_round(peers)
            if number:
                figures.rounds.append(measured)
        if side.name == "ours":
            count_commits(used, figures)


def one_round(peers: Sequence[Role]) -> tuple[Round, list[Facts]]:
    ready = ask_all(peers, "prepare")
    bytes_before, began = loopback_bytes(), time.monotonic()
    ends = ask_all(peers, "go")
    sent = loopback_bytes() - bytes_before
    used = ask_all(peers, "usage")
    if "sample" in used[0]:
        check_average(ready, used)
    counted = [after["sent"] - before["sent"] for before, after in zip(ready, used, strict=True) if "sent" in after]
    measured = Round(
        wall=max(end["ended"] for end in ends) - began,
        cpu=statistics.mean(each["cpu"] for each in used),
        python=max(each["python"] for each in used),
        p2pd=max(each["p2pd"] for each in used),
        sent=sent / len(peers) / 1e6,
        counted=statistics.mean(counted) / 1e6 if counted else None,
    )
    return measured, used


def check_average(before: Sequence[Facts], after: Sequence[Facts]) -> None:
    """hivemind passes over peers that fail; such a round would not be the same work. Raises SystemExit then."""
    expected = np.mean([facts["sample"] for facts in before], axis=0)
    if not all(np.allclose(facts["sample"], expected, atol=1e-3) for facts in after):
        raise SystemExit("hivemind's peers do not hold the average of all")


def count_commits(used: Sequence[Facts], figures: Figures) -> None:
    commits = {digest: facts for each in used for digest, facts in each["commits"].items()}
    figures.commits += len(commits)
    figures.heights += len({height for height, _ in commits.values()})
    fewest = min(listed for _, listed in commits.values())
    figures.listed = fewest if figures.listed is None else min(fewest, figures.listed)


# Limits ---------------------------------------------------------------------------------------------------------------


def measure_limits(sides: Sequence[Side], size: Size, threads: int) -> dict[Side, Limits]:
    limits = {}
    with processes("raw", 2, threads) as ends:
        raw_stream(ends, 2**20)  # opens the connection
        for side in sides:
            walls, cpus = zip(*(raw_stream(ends, side.sent_bytes(size)) for _ in range(REPEATS)), strict=True)
            memcpy = statistics.median(copying(side.touched_bytes(size) // 2) for _ in range(REPEATS))
            limits[side] = Limits(memcpy, statistics.median(walls), statistics.median(cpus))
    return limits


def raw_stream(ends: Sequence[Role], count: int) -> tuple[float, float]:
    """Seconds for that many bytes, and CPU seconds of both ends together."""
    _, reader = ends
    ends[0].ask("prepare")
    reader.ask(f"prepare {count}")
    began = time.monotonic()
    ended = reader.ask("go")["ended"]
    return ended - began, sum(each["cpu"] for each in ask_all(ends, "usage"))


def copying(count: int) -> float:
    """Seconds for copying that many bytes, a part of them again and again if they are many."""
    length = min(count, LARGEST_COPY)
    source, target = np.ones(length, np.uint8), np.zeros(length, np.uint8)
    began = time.perf_counter()
    np.copyto(target, source)
    return (time.perf_counter() - began) * count / length


# All together ---------------------------------------------------------------------------------------------------------


def measure_size(size: Size, sides: Sequence[Side], options: argparse.Namespace) -> list[Facts]:
    """Every side in turn, forwards and backwards."""
    figures = {side: Figures() for side in sides}
    for turn in range(options.turns):
        for side in sides[::-1] if turn % 2 else sides:
            measure(side, size, options.rounds, options.threads, figures[side])
            walls = [f"{each.wall:.3g}" for each in figures[side].rounds[-options.rounds :]]
            print(f"{size}, {side}: {', '.join(walls)} s", flush=True)
    limits = measure_limits(sides, size, options.threads)
    return [row(size, side, figures[side], figures[FP16], limits[side]) for side in sides]


def row(size: Size, side: Side, figures: Figures, fp16: Figures, limits: Limits) -> Facts:
    walls, cpus = ([getattr(each, name) for each in figures.rounds] for name in ("wall", "cpu"))
    wall, cpu = statistics.median(walls), statistics.median(cpus)
    counted = [each.counted for each in figures.rounds if each.counted is not None]
    return {
        "size": str(size),
        "side": str(side),
        "wall s": wall,
        "least": min(walls),
        "most": max(walls),
        "× fp16": wall / statistics.median(each.wall for each in fp16.rounds),
        "CPU s": cpu,
        "CPU least": min(cpus),
        "CPU most": max(cpus),
        "CPU × fp16": cpu / statistics.median(each.cpu for each in fp16.rounds),
        "Python MB": max(each.python for each in figures.rounds),
        "p2pd MB": max(each.p2pd for each in figures.rounds),
        "sent MB": statistics.median(each.sent for each in figures.rounds),
        "counted MB": statistics.median(counted) if counted else None,
        "commits": figures.commits / figures.heights if figures.heights else None,
        "listed": figures.listed,
        "memcpy s": limits.memcpy,
        "raw s": limits.raw,
        "raw CPU s": limits.raw_cpu,
    }


def choices() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["1x2", "10x2", "25x4"], help="millions of parameters x peers")
    parser.add_argument("--codecs", nargs="+", choices=list(CODECS), default=list(CODECS))
    parser.add_argument("--fragments", type=int, nargs="+", choices=[1, 2, 4, 8, 16], default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3, help="rounds in a turn, after its first one")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch in each peer")
    parser.add_argument("--short", action="store_true", help="1x2, 3 rounds, 1 turn, unless the options say otherwise")
    if parser.parse_args().short:
        parser.set_defaults(**SHORT)
    options = parser.parse_args()
    try:
        options.sizes = [Size.parse(text) for text in options.sizes]
    except ValueError as error:
        parser.error(f"--sizes: {error}")
    return options


def main() -> None:
    options = choices()
    if sys.platform != "linux":
        sys.exit("this benchmark reads CPU time, memory and bytes from the kernel of Linux")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    sides = [Side("hivemind", "none", 1), FP16]
    sides += [Side("ours", codec, fragments) for codec in options.codecs for fragments in options.fragments]
    rows = [row for size in options.sizes for row in measure_size(size, sides, options)]
    rounds = options.rounds * options.turns
    notes = [
        f"medians of {rounds} rounds, in {options.turns} turns; hivemind {version('hivemind')}, "
        f"{options.threads} thread(s) of torch in each peer",
        "CPU s, MB: of one peer; × fp16: against hivemind fp16 at the same size",
    ]
    report("round", rows, notes)


if __name__ == "__main__":
    main()
