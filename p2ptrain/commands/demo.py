"""The demo: a bootstrap node and peers as real processes on this machine, trained to the end and summed up.

It measures what it says in the same run: first every peer's speed alone (all of them at once, without any network),
then the swarm's; what each peer sent, where it entered the streams; and that all ended with the same bits.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from p2ptrain.commands.children import Children, Line
from p2ptrain.commands.export import export_run
from p2ptrain.errors import LedgerError, StorageError, TrainingError, UsageError
from p2ptrain.run import RunSpec, load_spec, short_peer
from p2ptrain.run.spec import CustomData, EvalSection, ModelSection, StdlibData
from p2ptrain.run.task import Classification, LanguageModelling
from p2ptrain.units import size

if TYPE_CHECKING:
    from p2ptrain.tasks import Evaluation

ALONE_SECONDS = 12.0
EVALUATED_SEQUENCES = 1024
SILENCE = 120.0
LOOPBACK = ("--listen", "/ip4/127.0.0.1/tcp/0")
REPORT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the summary is made of."""

    alone: float
    """Inner steps per second of one peer, mean over the peers, without a network."""
    together: float
    """The same in the swarm."""
    ends: Mapping[str, Line]
    """Each peer's last line."""
    parameters: int


def run_demo(folder: Path, run: str, peers: int, json_lines: bool) -> None:
    """Train `run` with so many peers in `folder` and print a summary.

    Raises:
        UsageError: the run never begins with so few peers.
        LedgerError: the peers did not end with the same head.
        TrainingError: the held-out loss did not get below the text's bigram entropy, or in a one-byte run below what
            it was at the beginning.
        P2PTrainError: a process failed.
    """
    spec = load_spec(run)
    if peers < spec.swarm.min_peers:
        raise UsageError(
            f"{peers} {'peer is' if peers == 1 else 'peers are'} too few for the run {spec.run.name!r}",
            f"it begins when {spec.swarm.min_peers} are ready (swarm.min_peers)",
            f"give --peers {spec.swarm.min_peers} or more, or --run with a TOML file that asks for fewer",
        )
    _empty(folder)
    console = Console(stderr=json_lines)
    threads = str(max(1, (os.cpu_count() or 1) // peers))
    began = time.monotonic()
    console.print(
        f"{spec.run.name}: {peers} peers on {os.cpu_count()} cores, {threads} thread(s) each", highlight=False
    )
    with Children(folder) as children:
        console.print(f"measuring each peer's speed alone, {ALONE_SECONDS:.0f} s", highlight=False)
        alone = measure_alone(children, run, peers, threads, ALONE_SECONDS)
        ends, parameters = _train(children, run, peers, threads, console)
    together = sum(end["steps"] / end["seconds"] for end in ends.values()) / peers
    outcome = Outcome(alone, together, ends, parameters)
    _check_agreement(ends)
    run_folder, exported = Path(next(iter(ends.values()))["folder"]), folder / "model"
    export_run(run_folder, exported, None)
    found, bar = _evaluate(spec, exported), _bar(spec, run_folder, folder / "base")
    if json_lines:
        _print_json(spec, outcome, found, bar)
    else:
        _summarize(console, spec, outcome, found, bar, time.monotonic() - began)
        if isinstance(spec.task, LanguageModelling):
            _show_sample(console, exported)
    if bar is not None and not found.loss < bar.loss:  # nor if it is NaN
        raise TrainingError(
            "the model did not learn enough",
            f"held-out loss {found.loss:.3f}, {bar.text} {bar.loss:.3f}",
            "report this run",
        )


def _empty(folder: Path) -> None:
    marker = folder / ".p2ptrain-demo"
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not marker.exists()):
        raise StorageError(
            f"{folder} holds something else", "the demo empties its folder first", "choose another one with --folder"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def measure_alone(children: Children, run: str, peers: int, threads: str, seconds: float) -> float:
    """Steps per second of a peer with no network, while as many others do the same: the swarm's fair comparison."""
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
    """The swarm: returns every peer's last line and the number of parameters."""
    board = _Board(console)
    ends: dict[str, Line] = {}
    parameters = 0
    children.start("bootstrap", "bootstrap", *LOOPBACK)
    with board:
        for name, line in children.lines(SILENCE):
            match line["event"]:
                case "bootstrap":
                    common = ("--threads", threads, *LOOPBACK)
                    children.start("peer-1", "peer", run, "--bootstrap", line["invite"], *common)
                case "started":
                    parameters = line["parameters"]
                    if name == "peer-1":
                        for number in range(2, peers + 1):
                            children.start(f"peer-{number}", "join", line["invite"], *common)
                case "stopped":
                    ends[name] = line
            board.show(name, line)
            if len(ends) == peers:
                return dict(sorted(ends.items())), parameters
    raise AssertionError("lines() ends only by raising")


class _Board:
    """The peers as their lines tell of them: a live table on a terminal, a line now and then in a pipe."""

    def __init__(self, console: Console) -> None:
        self._console, self._rows = console, dict[str, dict[str, Any]]()
        self._live = (
            Live(get_renderable=self._table, console=console, refresh_per_second=4) if console.is_terminal else None
        )
        self._printed = time.monotonic()

    def __enter__(self) -> None:
        if self._live:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, name: str, line: Line) -> None:
        if not name.startswith("peer-"):
            return
        row = self._rows.setdefault(name, {})
        row.update({key: line[key] for key in _COLUMNS if key in line})
        if line["event"] == "evaluation":
            row["held_out"] = f"{_number(line['loss'])} @{line['height']}"
        elif line["event"] == "warning":
            self._console.print(f"{name}: {line['text']}", highlight=False, markup=False)
        if self._live is None and time.monotonic() - self._printed >= REPORT_SECONDS:
            self._printed = time.monotonic()
            self._console.print(self._line(), highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table()
        for column in ("", "peer", "height", "state", "steps", "loss", "held-out", "tokens/s", "sent"):
            table.add_column(column)
        for name, row in sorted(self._rows.items()):
            table.add_row(
                name,
                short_peer(row.get("peer", "")),
                str(row.get("height", "")),
                row.get("state", "")[:8],
                str(row.get("steps", "")),
                _number(row.get("loss")),
                row.get("held_out", ""),
                f"{row.get('tokens_per_second', 0):,.0f}",
                size(row.get("bytes_sent", 0)),
            )
        return table

    def _line(self) -> str:
        parts = [
            f"{name} height {row.get('height', 0)} loss {_number(row.get('loss')) or '-'}"
            for name, row in self._rows.items()
        ]
        return "   ".join(parts) or "starting"


_COLUMNS = ("peer", "height", "state", "loss", "tokens_per_second", "bytes_sent")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _check_agreement(ends: Mapping[str, Line]) -> None:
    heads = {(end["height"], end["commit"], end["state"]) for end in ends.values()}
    if len(heads) != 1:
        told = ", ".join(f"{name}: {end['height']} {end['state'][:8]}" for name, end in ends.items())
        raise LedgerError("the peers did not end with the same head", told, "look at the logs in the demo's folder")


@dataclass(frozen=True, slots=True)
class Bar:
    """A held-out loss that the run has to get below, and what it is."""

    loss: float
    text: str


def _evaluate(spec: RunSpec, exported: Path) -> Evaluation:
    """How well an exported model does."""
    from p2ptrain.tasks import LocalOptions, open_task

    thorough = spec.model_copy(
        update={"eval": EvalSection(sequences=EVALUATED_SEQUENCES), "model": ModelSection(pretrained=str(exported))}
    )
    task = open_task(thorough, LocalOptions(device="cpu"))
    task.load_data(0)
    return task.evaluate({})  # with its own weights


def _bar(spec: RunSpec, run_folder: Path, base: Path) -> Bar | None:
    """One byte a gradient is little: it has to get better. Streaming DiLoCo has to beat counting pairs of bytes."""
    from p2ptrain.tasks.baseline import byte_bigram_entropy
    from p2ptrain.tasks.documents import is_held_out, stdlib_documents

    if spec.method.keeps_records:
        export_run(run_folder, base, None, at=0)
        return Bar(_evaluate(spec, base).loss, "at the beginning")
    if not isinstance(spec.data, StdlibData) or spec.data.tokenizer != "bytes":
        return None
    texts = (text for text in stdlib_documents() if is_held_out(text, spec.data.held_out))
    return Bar(byte_bigram_entropy(texts), "bigram entropy of that text")


def _bytes_per_gradient(outcome: Outcome) -> float:
    """Everything that all peers sent, gossip once for each receiver, by the records that it carried."""
    sent, _ = _fewer(outcome)
    records: int = next(iter(outcome.ends.values()))["height"]
    return sent * len(outcome.ends) / max(1, records)


def _fewer(outcome: Outcome) -> tuple[float, float | None]:
    """Bytes that one peer sent (mean), and how many times fewer that is than fp32 ring all-reduce at every step; None
    where there is nothing to compare: a peer alone has nobody to send to."""
    peers = len(outcome.ends)
    # A gossip message enters one stream and is passed on until every other peer has it once.
    sent = sum(
        sum(count * (peers - 1 if kind == "gossip" else 1) for kind, count in end["sent"].items())
        for end in outcome.ends.values()
    )
    steps = sum(end["steps"] for end in outcome.ends.values()) / peers
    ring = 2 * (peers - 1) / peers * 4 * outcome.parameters * steps
    return sent / peers, ring / (sent / peers) if sent and peers > 1 else None


def _print_json(spec: RunSpec, outcome: Outcome, found: Evaluation, bar: Bar | None) -> None:
    import json

    sent, fewer = _fewer(outcome)
    facts = {
        "event": "summary",
        "held_out_loss": found.loss if math.isfinite(found.loss) else None,
        "held_out_accuracy": found.accuracy,
        "to_beat": bar and bar.loss,
        "to_beat_is": bar and bar.text,
        "bytes_sent_per_peer": sent,
        "times_fewer_than_ring": fewer,
        "steps_per_second_alone": outcome.alone,
        "steps_per_second_together": outcome.together,
        "lost_share": 1 - outcome.together / outcome.alone,
    }
    if spec.method.keeps_records:
        facts["bytes_per_gradient"] = _bytes_per_gradient(outcome)
    print(json.dumps(facts), file=sys.stdout, flush=True)


def _summarize(
    console: Console, spec: RunSpec, outcome: Outcome, found: Evaluation, bar: Bar | None, seconds: float
) -> None:
    table = Table(title="what each peer sent", title_justify="left")
    for column in ("", "peer", "height", "state", "steps", "payloads", "gossip", "other"):
        table.add_column(column, no_wrap=True)
    for name, end in outcome.ends.items():
        sent = end["sent"]
        other = sum(count for kind, count in sent.items() if kind not in ("contribution", "gossip"))
        table.add_row(
            name,
            Path(end["folder"]).name,
            str(end["height"]),
            end["state"][:8],
            str(end["steps"]),
            size(sent.get("contribution", 0)),
            size(sent["gossip"]),
            size(other),
        )
    console.print(table)
    sent_each, fewer = _fewer(outcome)
    end = next(iter(outcome.ends.values()))
    lost = 1 - outcome.together / outcome.alone
    compared = [] if fewer is None else [f"{fewer:.0f} times fewer bytes than fp32 ring all-reduce at every step"]
    if spec.method.keeps_records:
        compared.append(f"{_bytes_per_gradient(outcome):.1f} bytes on the wire per gradient, everything included")
    lines = [
        f"agreement        all {len(outcome.ends)} peers at height {end['height']}, state {end['state'][:16]}",
        f"held-out loss    {found.loss:.3f} nats per {_unit(spec)}"
        + ("" if found.accuracy is None else f", accuracy {found.accuracy:.1%}")
        + ("" if bar is None else f" ({bar.text}: {bar.loss:.3f})"),
        f"sent per peer    {size(sent_each)} with framing, gossip counted once for each receiver",
        *(" " * 17 + line for line in compared),
        f"lost share       {lost:.1%} of the training speed: {outcome.together:.2f} steps/s in the swarm, "
        f"{outcome.alone:.2f} alone",
        f"settings         {outcome.parameters:,} parameters, {spec.method.settings}",
        f"took             {seconds:.0f} s",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _unit(spec: RunSpec) -> str:
    if isinstance(spec.task, Classification):
        return "example"
    return "byte" if not isinstance(spec.data, CustomData) and spec.data.tokenizer == "bytes" else "token"


def _show_sample(console: Console, exported: Path) -> None:
    """Continue a prompt with what any user of transformers would write."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=False)
    torch.manual_seed(1)
    inputs = tokenizer("def read_", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=160, do_sample=True, temperature=0.6)
    console.print(f"\na sample of {exported}, loaded with AutoModelForCausalLM and AutoTokenizer:\n", highlight=False)
    console.print(tokenizer.decode(output[0]).rstrip(), highlight=False, markup=False, style="green")
