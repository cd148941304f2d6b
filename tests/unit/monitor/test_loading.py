"""What a peer is about to load, as lines and as a panel."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from p2ptrain.monitor import LiveReporter, events
from p2ptrain.monitor.loading import loading_lines
from p2ptrain.monitor.report import describe
from tests.unit.monitor.samples import LOADING, PEERS

SILENT = "the hub did not answer"


def line(label: str, event: events.Loading) -> str:
    (found,) = [line for line in loading_lines(event) if line.startswith(f"  {label} ")]
    return found.removeprefix(f"  {label}").strip()


def test_lines_say_what_comes_from_where_and_how_large_it_is() -> None:
    assert describe(LOADING) == [
        "about to load:",
        f"  run        quickstart (abababab), founded by {PEERS[0][-6:]}: A model learns.",
        "  model      somebody/model@v1, 134,500,000 parameters (1,000,000 trained); from the hub, 269.0 MB, "
        "licence apache-2.0",
        "  tokenizer  the model's own",
        "  data       somebody/texts (train); streamed from the hub, 5.0 GB in all, licence unknown",
        "  state      the current weights from the run's peers, at most 8.0 MB",
        "  method     Streaming DiLoCo: sends each peer about 126.0 kB every 25 steps",
        "  code       no code from the network is run",
    ]


def test_of_a_run_that_begins_here_nothing_comes_from_peers() -> None:
    first = dataclasses.replace(LOADING, run="", founder="", description="", method="spsa", sends="")
    assert line("run", first) == "quickstart, a new run that this peer founds"
    assert line("method", first) == "one-byte SPSA"
    assert not any("peers" in told for told in loading_lines(first))


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (events.Part("x", "cache", 10, licence="mit"), "x; from the hub, already on this machine, 10 B, licence mit"),
        (events.Part("/x", "folder", None, licence="mit"), "/x; a folder of this machine, licence mit, size unknown"),
        (events.Part("x", "hub", 10, at_most=True), "x; from the hub, at most 10 B, licence unknown"),
        (events.Part("x", "hub", unknown=SILENT), f"x; from the hub, size and licence unknown: {SILENT}"),
        (events.Part("*.txt: 3 files", "files", 2_000), "*.txt: 3 files; files of this machine, 2.0 kB"),
        (events.Part("*.txt", "files", unknown="no file matches"), "*.txt; files of this machine, no file matches"),
        (events.Part("the standard library", "here"), "the standard library; needs no download"),
    ],
)
def test_a_parts_place_size_and_licence_are_told_or_said_to_be_unknown(part: events.Part, told: str) -> None:
    assert line("data", dataclasses.replace(LOADING, data=part)) == told


def test_a_reason_is_told_once() -> None:
    silent = events.Part("x", "hub", unknown=SILENT)
    lines = loading_lines(dataclasses.replace(LOADING, model=silent, tokenizer=silent, data=silent))
    assert sum(SILENT in told for told in lines) == 1
    assert sum("size and licence unknown" in told for told in lines) == 3


def test_parameters_that_are_not_known_are_not_told() -> None:
    assert line("model", dataclasses.replace(LOADING, parameters=None)).startswith("somebody/model@v1; from")
    some = dataclasses.replace(LOADING, trained=None, parameters_at_least=True, state_bytes=None, sends="")
    assert ", at least 134,500,000 parameters; from" in line("model", some)
    assert line("state", some).endswith("size unknown")
    assert line("method", some) == "Streaming DiLoCo"


def shown(event: events.Loading, width: int) -> list[str]:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    LiveReporter(console).emit(event)
    return console.export_text().splitlines()


def test_on_a_terminal_it_is_a_panel_of_a_dozen_lines() -> None:
    silent = events.Part("HuggingFaceTB/SmolLM2-135M-Instruct", "hub", unknown=SILENT)
    data = events.Part("HuggingFaceFW/fineweb-edu (sample-100BT, train)", "hub", streamed=True, unknown=SILENT)
    told = shown(dataclasses.replace(LOADING, model=silent, tokenizer=silent, data=data, parameters=None), 80)
    assert len(told) <= 12
    assert {len(line) for line in told} == {80}
    assert any("no code from the network is run" in line for line in told)
    assert "Ctrl-C" in told[-1]


def test_nothing_in_a_panel_is_markup_or_moves_the_cursor() -> None:
    evil = events.Part("[bold red]x[/]\x1b[2J", "hub")
    told = "".join(shown(dataclasses.replace(LOADING, data=evil), 120))
    assert "[bold red]x[/]\ufffd[2J" in told
