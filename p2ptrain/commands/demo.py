"""`p2ptrain demo`: a bootstrap node and peers as real processes on this machine, trained to the end and summed up.

Every figure comes from the same run. First all peers train at once without a network, each for itself: that gives the
speed alone. Then they train together. The summary compares the speeds, counts what each peer sent, and checks that all
peers ended with the same bits.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table

from p2ptrain.commands.children import Children, Line
from p2ptrain.commands.export import export_run
from p2ptrain.commands.listing import table_of
from p2ptrain.errors import LedgerError, StorageError, TrainingError, UsageError
from p2ptrain.monitor.table import number
from p2ptrain.run import RunSpec, load_spec, short_peer
from p2ptrain.run.spec import CustomData, EvalSection, ModelSection, StdlibData
from p2ptrain.run.task import Classification, LanguageModelling
from p2ptrain.tasks import Evaluation, LocalOptions, open_task
from p2ptrain.tasks.baseline import byte_bigram_entropy
from p2ptrain.tasks.documents import is_held_out, stdlib_documents
from p2ptrain.text import reason_of
from p2ptrain.units import size

ALONE_SECONDS = 12.0
EVALUATED_SEQUENCES = 1024
SILENCE = 120.0
LOOPBACK = ("--listen", "/ip4/127.0.0.1/tcp/0")
REPORT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A held-out loss that the run has to get below, and what it is."""

    loss: float
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo has measured."""

    spec: RunSpec
    alone: float
    """Inner steps per second of one peer without a network, mean over the peers."""
    ends: Mapping[str, Line]
    """The last line of each peer, by the peer's name."""
    parameters: int
    found: Evaluation
    bar: Bar | None

    @property
    def together(self) -> float:
        """Inner steps per second of one peer in the swarm, mean over the peers."""
        speeds: list[float] = [end["steps"] / end["seconds"] for end in self.ends.values()]
        return sum(speeds) / len(speeds)

    @property
    def lost_share(self) -> float:
        """The part of its speed that a peer loses in the swarm, from 0 to 1."""
        return 1 - self.together / self.alone

    @property
    def sent(self) -> float:
        """Bytes that one peer sent, mean over the peers. Gossip counts once for each receiver: a message enters one
        stream, and peers pass it on until each of them has it."""
        peers = len(self.ends)
        counts: list[tuple[str, int]] = [count for end in self.ends.values() for count in end["sent"].items()]
        return sum(count * (peers - 1 if kind == "gossip" else 1) for kind, count in counts) / peers

    @property
    def times_fewer(self) -> float | None:
        """Bytes of fp32 ring all-reduce at every step, divided by `sent`; None if no peer sent anything to another."""
        peers = len(self.ends)
        steps = sum(end["steps"] for end in self.ends.values()) / peers
        ring = 2 * (peers - 1) / peers * 4 * self.parameters * steps
        return ring / self.sent if self.sent and peers > 1 else None

    @property
    def bytes_per_gradient(self) -> float | None:
        """Bytes that all peers sent, divided by the number of records; None in a run without records."""
        if not self.spec.method.keeps_records:
            return None
        records: int = next(iter(self.ends.values()))["height"]
        return self.sent * len(self.ends) / max(1, records)


def run_demo(folder: Path, run: str, peers: int, json_lines: bool) -> None:
    """Train a run, a recipe or a TOML file, with `peers` peers in `folder`, and print a summary.

    Raises:
        UsageError: the run needs more peers to begin.
        StorageError: `folder` holds something else.
        LedgerError: the peers did not end with the same head.
        TrainingError: the held-out loss did not get below the `Bar`.
        P2PTrainError: a process failed.
    """
    spec = load_spec(run)
    if peers < spec.swarm.min_peers:
        raise UsageError(
            f"{peers} {'peer is' if peers == 1 else 'peers are'} too few for the run {spec.run.name!r}",
            f"it begins when {spec.swarm.min_peers} peers are ready (swarm.min_peers)",
            f"give --peers {spec.swarm.min_peers} or more, or --run with a TOML file that asks for fewer",
        )
    _empty(folder)
    console = Console(stderr=json_lines)
    threads = str(max(1, (os.cpu_count() or 1) // peers))
    began = time.monotonic()
    setting = f"{peers} peers on {os.cpu_count()} cores, {threads} thread(s) each"
    console.print(f"{spec.run.name}: {setting}", highlight=False)
    with Children(folder) as children:
        console.print(f"measuring each peer's speed alone, {ALONE_SECONDS:.0f} s", highlight=False)
        alone = measure_alone(children, run, peers, threads, ALONE_SECONDS)
        ends, parameters = _train(children, run, peers, threads, console)
    _check_agreement(ends)
    run_folder, exported = Path(next(iter(ends.values()))["folder"]), folder / "model"
    export_run(run_folder, exported, None)
    found, bar = _evaluate(spec, exported), _bar(spec, run_folder, folder / "base")
    outcome = Outcome(spec, alone, ends, parameters, found, bar)
    if json_lines:
        _print_json(outcome)
    else:
        _summarize(console, outcome, time.monotonic() - began)
        if isinstance(spec.task, LanguageModelling):
            _show_sample(console, exported)
    if bar is not None and not found.loss < bar.loss:  # also if the loss is NaN
        why = f"its held-out loss is {found.loss:.3f}, not below {bar.loss:.3f} ({bar.text})"
        raise TrainingError("the model did not learn enough", why, "report this run")


def _empty(folder: Path) -> None:
    marker, other = folder / ".p2ptrain-demo", "choose another folder with --folder"
    try:
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not marker.exists()):
            raise StorageError(f"{folder} holds something else", "the demo empties its folder first", other)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        marker.touch()
    except OSError as error:
        raise StorageError(f"can't write to {folder}", reason_of(error), other) from None


def measure_alone(children: Children, run: str, peers: int, threads: str, seconds: float) -> float:
    """Inner steps per second of one peer without a network, mean over `peers` peers.

    All of them train at the same time, as they do in the swarm, so the comparison is fair.
    """
    names = [f"alone-{number}" for number in range(1, peers + 1)]
    for name in names:
        children.start(name, "speed", run, "--seconds", "600", "--threads", threads)
    heard: dict[str, list[Line]] = {name: [] for name in names}
    for name, line in children.lines(SILENCE):
        heard[name].append(line)
        # Only the time in which all of them were training counts.
        since = max((lines[0]["at"] if lines else float("inf")) for lines in heard.values())
        if all(lines and lines[-1]["at"] - since >= seconds for lines in heard.values()):
            break
    children.stop(*names)
    total = 0.0
    for lines in heard.values():
        window = [line for line in lines if line["at"] >= since]
        total += (window[-1]["steps"] - window[0]["steps"]) / (window[-1]["at"] - window[0]["at"])
    return total / peers


def _train(children: Children, run: str, peers: int, threads: str, console: Console) -> tuple[dict[str, Line], int]:
    """Train in a swarm; returns each peer's last line, and the number of trained parameters."""
    board = _Board(console)
    ends: dict[str, Line] = {}
    parameters = 0
    children.start("bootstrap", "bootstrap", *LOOPBACK)
    with board.live():
        for name, line in children.lines(SILENCE):
            match line["event"]:
                case "bootstrap":
                    common = ("--threads", threads, *LOOPBACK)
                    children.start("peer-1", "peer", run, "--bootstrap", line["invite"], *common)
                case "started":
                    parameters = line["parameters"]
                    if name == "peer-1":
                        for which in range(2, peers + 1):
                            children.start(f"peer-{which}", "join", line["invite"], *common)
                case "stopped":
                    ends[name] = line
            board.show(name, line)
            if len(ends) == peers:
                return dict(sorted(ends.items())), parameters
    raise AssertionError("lines() ends only by raising")


class _Board:
    """What the peers' lines say: a live table on a terminal, a line now and then in a pipe."""

    def __init__(self, console: Console) -> None:
        self._console, self._rows = console, dict[str, dict[str, Any]]()
        self._printed = time.monotonic()

    def live(self) -> contextlib.AbstractContextManager[object]:
        """Shows the table for as long as the block lasts."""
        if not self._console.is_terminal:
            return contextlib.nullcontext()
        return Live(get_renderable=self._table, console=self._console, refresh_per_second=4)

    def show(self, name: str, line: Line) -> None:
        """Take a line in."""
        if not name.startswith("peer-"):
            return
        row = self._rows.setdefault(name, {})
        match line["event"]:
            case "evaluation":
                row |= {"height": line["height"], "held_out": f"{number(line['loss'])} @{line['height']}"}
            case "commit":  # its steps are those of all contributors
                row |= {"height": line["height"], "state": line["state"]}
            case "warning":
                self._console.print(f"{name}: {line['text']}", highlight=False, markup=False)
            case _:
                row |= line
        if not self._console.is_terminal and time.monotonic() - self._printed >= REPORT_SECONDS:
            self._printed = time.monotonic()
            parts = (f"{n} height {r.get('height', 0)} loss {number(r.get('loss'))}" for n, r in self._rows.items())
            self._console.print("   ".join(parts), highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        rows = []
        for name, row in sorted(self._rows.items()):
            place = (short_peer(row.get("peer", "")), str(row.get("height", "")), row.get("state", "")[:8])
            progress = (str(row.get("steps", "")), number(row.get("loss")), row.get("held_out", ""))
            rates = (f"{row.get('tokens_per_second', 0):,.0f}", size(row.get("bytes_sent", 0)))
            rows.append((name, *place, *progress, *rates))
        return table_of(("", "peer", "height", "state", "steps", "loss", "held-out", "tokens/s", "sent"), rows)


def _check_agreement(ends: Mapping[str, Line]) -> None:
    heads = {(end["height"], end["commit"], end["state"]) for end in ends.values()}
    if len(heads) != 1:
        told = ", ".join(f"{name}: {end['height']} {end['state'][:8]}" for name, end in ends.items())
        raise LedgerError("the peers did not end with the same head", told, "read log.txt in each peer's run folder")


def _evaluate(spec: RunSpec, exported: Path) -> Evaluation:
    """How well an exported model does on many held-out sequences."""
    sections = {"eval": EvalSection(sequences=EVALUATED_SEQUENCES), "model": ModelSection(pretrained=str(exported))}
    task = open_task(spec.model_copy(update=sections), LocalOptions(device="cpu"), trains=False)
    task.load_data(0)
    found = task.evaluate({})  # with its own weights
    assert found is not None, "nobody stops it"
    return found


def _bar(spec: RunSpec, run_folder: Path, base: Path) -> Bar | None:
    """One byte per gradient teaches slowly: such a run only has to improve. Streaming DiLoCo has to predict the text
    better than counts of pairs of bytes do."""
    if spec.method.keeps_records:
        export_run(run_folder, base, None, at=0)
        return Bar(_evaluate(spec, base).loss, "at the beginning")
    if not isinstance(spec.data, StdlibData) or spec.data.tokenizer != "bytes":
        return None
    texts = (text for text in stdlib_documents() if is_held_out(text, spec.data.held_out))
    return Bar(byte_bigram_entropy(texts), "bigram entropy of that text")


def _print_json(outcome: Outcome) -> None:
    found, bar = outcome.found, outcome.bar
    facts = {
        "event": "summary",
        "held_out_loss": found.loss if math.isfinite(found.loss) else None,
        "held_out_accuracy": found.accuracy,
        "to_beat": bar and bar.loss,
        "to_beat_is": bar and bar.text,
        "bytes_sent_per_peer": outcome.sent,
        "times_fewer_than_ring": outcome.times_fewer,
        "steps_per_second_alone": outcome.alone,
        "steps_per_second_together": outcome.together,
        "lost_share": outcome.lost_share,
    }
    if outcome.bytes_per_gradient is not None:
        facts["bytes_per_gradient"] = outcome.bytes_per_gradient
    print(json.dumps(facts), flush=True)


def _summarize(console: Console, outcome: Outcome, seconds: float) -> None:
    console.print(_sent_table(outcome.ends))
    found, bar, end = outcome.found, outcome.bar, next(iter(outcome.ends.values()))
    compared = []
    if outcome.times_fewer is not None:
        compared.append(f"{outcome.times_fewer:.0f} times fewer bytes than fp32 ring all-reduce at every step")
    if outcome.bytes_per_gradient is not None:
        compared.append(f"{outcome.bytes_per_gradient:.1f} bytes on the wire per gradient, everything included")
    lines = [
        f"agreement        all {len(outcome.ends)} peers at height {end['height']}, state {end['state'][:16]}",
        f"held-out loss    {found.loss:.3f} nats per {_unit(outcome.spec)}"
        + ("" if found.accuracy is None else f", accuracy {found.accuracy:.1%}")
        + ("" if bar is None else f" ({bar.text}: {bar.loss:.3f})"),
        f"sent per peer    {size(outcome.sent)} with framing, gossip counted once for each receiver",
        *(" " * 17 + line for line in compared),
        f"lost share       {outcome.lost_share:.1%} of the training speed: {outcome.together:.2f} steps/s in the swarm,"
        f" {outcome.alone:.2f} alone",
        f"settings         {outcome.parameters:,} parameters, {outcome.spec.method.settings}",
        f"took             {seconds:.0f} s",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _sent_table(ends: Mapping[str, Line]) -> Table:
    rows = []
    for name, end in ends.items():
        sent = end["sent"]
        other = sum(count for kind, count in sent.items() if kind not in ("contribution", "gossip"))
        about = (Path(end["folder"]).name, str(end["height"]), end["state"][:8], str(end["steps"]))
        rows.append((name, *about, *map(size, (sent.get("contribution", 0), sent["gossip"], other))))
    table = table_of(("", "peer", "height", "state", "steps", "payloads", "gossip", "other"), rows)
    table.title, table.title_justify = "what each peer sent", "left"
    for column in table.columns:
        column.no_wrap = True
    return table


def _unit(spec: RunSpec) -> str:
    if isinstance(spec.task, Classification):
        return "example"
    return "byte" if not isinstance(spec.data, CustomData) and spec.data.tokenizer == "bytes" else "token"


def _show_sample(console: Console, exported: Path) -> None:
    """Continue a prompt, with the lines that a user of transformers would write."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=False)
    torch.manual_seed(1)
    inputs = tokenizer("def read_", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=160, do_sample=True, temperature=0.6)
    console.print(f"\na sample of {exported}, loaded with AutoModelForCausalLM and AutoTokenizer:\n", highlight=False)
    console.print(tokenizer.decode(output[0]).rstrip(), highlight=False, markup=False, style="green")
