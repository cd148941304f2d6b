"""Events as JSON lines, plain lines and a live table."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from p2ptrain.monitor import JsonReporter, LiveReporter, PlainReporter, events, make_reporter
from p2ptrain.monitor.report import describe
from tests.unit.monitor.samples import (
    ALL,
    COMMITTED,
    EVALUATED,
    FETCHING,
    LEFT,
    MARKED,
    PAUSED,
    PEERS,
    PREPARING,
    PROGRESS,
    REPLAYING,
    ROLLED_BACK,
    STARTED,
    STATE,
    STOPPED,
    TRAINING,
    WARNED,
    WENT_ON,
    peer_ids,
    presence,
)


def plain(*emitted: events.Event) -> list[str]:
    out = io.StringIO()
    reporter = PlainReporter(out)
    for event in emitted:
        reporter.emit(event)
    return out.getvalue().splitlines()


def test_there_is_a_sample_of_every_kind_of_event() -> None:
    assert sorted(event.name for event in ALL) == sorted({kind.name for kind in events.Event.__subclasses__()})


def test_nothing_that_is_shown_moves_the_cursor() -> None:
    """Whatever a remote peer has put into an error's text."""
    assert plain(dataclasses.replace(WARNED, text="refused: \x1b[2J\x9b1A\rgotcha")) == [
        "warning: refused: \ufffd[2J\ufffd1A\ufffdgotcha"
    ]


# JSON lines --------------------------------------------------------------------------------------------------------


def as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("event", ALL, ids=lambda event: event.name)
def test_a_json_line_is_one_object_with_the_events_name_and_fields(event: events.Event) -> None:
    out = io.StringIO()
    JsonReporter(out).emit(event)
    [line] = out.getvalue().splitlines()
    fields = {field.name: as_json(getattr(event, field.name)) for field in dataclasses.fields(event)}
    assert json.loads(line) == {"event": event.name, **fields}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_has_no_word_for_is_null(number: float) -> None:
    out = io.StringIO()
    JsonReporter(out).emit(dataclasses.replace(EVALUATED, loss=number))
    assert '"loss": null' in out.getvalue()


# Plain lines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ALL, ids=lambda event: event.name)
def test_every_event_has_words(event: events.Event) -> None:
    assert all(describe(event))
    assert plain(event) == describe(event)


def test_the_first_lines_say_how_others_join() -> None:
    lines = plain(STARTED)
    assert "quickstart" in lines[0]
    assert "1,234,567 parameters" in lines[0]
    assert lines[1:] == ["folder /home/runs/x", "others join with:", "  p2ptrain join p2ptrain://1.invite"]


def test_a_private_run_s_owner_is_told_how_to_invite_and_others_that_she_does() -> None:
    owner = replace(STARTED, invite="", invite_with="p2ptrain invite quickstart")
    assert plain(owner)[2:] == ["a private run; invite others with:", "  p2ptrain invite quickstart --label NAME"]
    assert plain(replace(STARTED, invite=""))[2:] == ["a private run: its owner invites others"]


def test_others_are_counted_in_good_english() -> None:
    assert plain(TRAINING) == [f"training from height 7 ({STATE[:8]}) with 2 other peers"]
    assert plain(replace(TRAINING, peers=1)) == [f"training from height 7 ({STATE[:8]}) with 1 other peer"]


def test_a_commit_names_its_contributors() -> None:
    assert plain(COMMITTED)[0].endswith(f"state {STATE[:8]} from {PEERS[0][-6:]} {PEERS[1][-6:]}")
    assert plain(dataclasses.replace(COMMITTED, contributors=()))[0].endswith("from nobody")


def test_a_rollback_names_both_branches_and_what_it_cost() -> None:
    assert plain(ROLLED_BACK) == [
        "3 commits taken back: branch 22222222 is heavier than branch 11111111; "
        "6,000 tokens no longer count, 2,000 of them from this peer"
    ]


def test_progress_is_printed_every_ten_seconds() -> None:
    reports = [dataclasses.replace(PROGRESS, seconds=float(second)) for second in range(35)]
    assert len(plain(*reports)) == 4
    assert plain(PROGRESS) == ["step 120 height 8 loss 2.718 lr 1.00e-03 45,679 tokens/s peers 2 sent 1.5 MB"]
    assert "loss –" in plain(dataclasses.replace(PROGRESS, loss=None))[0]


def test_replaying_says_how_long_it_takes() -> None:
    assert plain(REPLAYING) == ["applying records: 250 of 1,000, 6 s left"]
    assert plain(dataclasses.replace(REPLAYING, records_done=0)) == ["applying records: 0 of 1,000, 0 s left"]
    assert plain(PAUSED) == ["paused until 2026-11-21 22:00: outside its hours"]
    assert plain(dataclasses.replace(PAUSED, reason="others use the GPU (40%)", until=None)) == [
        "paused while others use the GPU (40%)"
    ]
    assert plain(WENT_ON) == ["training again after a pause of 1 h 2 min"]
    assert plain(MARKED) == [f"mark 3: 6,150 records, state {STATE[:8]}"]


def test_fetching_is_printed_at_once_every_ten_seconds_and_at_the_end() -> None:
    reports = [dataclasses.replace(FETCHING, seconds=float(second)) for second in range(15)]
    whole = dataclasses.replace(FETCHING, bytes_here=4_000_000, seconds=14.5, rate=275_900.0)
    assert len(plain(*reports)) == 2
    assert plain(*reports, whole)[2:] == ["fetching the state: 4.0 MB of 4.0 MB, 275.9 kB/s, 0 s left"]
    assert plain(FETCHING) == ["fetching the state: 1.5 MB of 4.0 MB, 500.0 kB/s, 5 s left"]
    assert plain(dataclasses.replace(FETCHING, rate=0.0)) == ["fetching the state: 1.5 MB of 4.0 MB"]


def test_the_last_lines_say_how_it_ended_and_how_to_go_on() -> None:
    first, *rest = plain(STOPPED)
    assert first == f"stopped: height 9, state {STATE[:8]}, 130 steps in 33 s"
    assert rest == [
        "sent 2.0 MB contribution, 900 B gossip",
        "not used: 3 × malformed",
        "go on with:",
        "  p2ptrain peer /home/runs/x",
    ]
    assert len(plain(dataclasses.replace(STOPPED, resume="", refused={}))) == 2


def test_who_left_before_training_is_told_how_to_go_on_if_there_is_a_run_here() -> None:
    assert plain(LEFT) == [
        "left before training began: nothing was lost",
        "go on with:",
        "  p2ptrain peer /home/runs/x",
    ]
    assert plain(events.Left("", "")) == ["left before there was a run here: nothing was lost"]


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        ("/home/otto/runs/x", "~/runs/x"),
        ("/home/otto/Library/Application Support/runs/x", "~/'Library/Application Support/runs/x'"),
        ("/home/ottokar/runs/x", "/home/ottokar/runs/x"),
        ("/srv/my runs/x", "'/srv/my runs/x'"),
    ],
)
def test_a_folder_can_be_copied_into_a_shell(monkeypatch: pytest.MonkeyPatch, folder: str, shown: str) -> None:
    monkeypatch.setenv("HOME", "/home/otto")
    resume = shlex.join(["p2ptrain", "peer", folder, "--name", "Otto's laptop"])
    assert plain(dataclasses.replace(STARTED, folder=folder))[1] == f"folder {shown}"
    last = plain(dataclasses.replace(STOPPED, folder=folder, resume=resume))[-1]
    assert last == f"""  p2ptrain peer {shown} --name 'Otto'"'"'s laptop'"""
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {last}"], capture_output=True, text=True, check=True)
    assert words.stdout.splitlines() == ["p2ptrain", "peer", folder, "--name", "Otto's laptop"]


def test_an_event_without_words_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="no words for Event"):
        describe(events.Event())


# The live table ----------------------------------------------------------------------------------------------------


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=160, file=io.StringIO(), force_terminal=False)


def test_on_a_terminal_important_lines_scroll_and_the_rest_is_in_the_table(console: Console) -> None:
    reporter = LiveReporter(console)
    for event in ALL:
        reporter.emit(event)
    told = console.export_text()
    for shown in (PREPARING, STARTED, ROLLED_BACK, WARNED, STOPPED):
        assert all(line in told for line in describe(shown))
    assert describe(COMMITTED)[0] not in told
    assert describe(EVALUATED)[0] not in told, "else the invite would be gone from the screen after some minutes"
    assert describe(PROGRESS)[0] not in told
    assert describe(FETCHING)[0] not in told


def test_sentences_break_between_words_and_what_is_copied_does_not_break() -> None:
    console = Console(record=True, width=40, file=io.StringIO(), force_terminal=False)
    reporter = LiveReporter(console)
    reporter.emit(dataclasses.replace(STARTED, invite="p2ptrain://1." + "x" * 100, folder="/srv/" + "y" * 100))
    reporter.emit(dataclasses.replace(WARNED, text="a sentence that is longer than a row of this terminal"))
    lines = console.export_text().splitlines()
    assert "  p2ptrain join p2ptrain://1." + "x" * 100 in lines
    assert "folder /srv/" + "y" * 100 in lines
    assert [line.rstrip() for line in lines[-2:]] == [
        "warning: a sentence that is longer than",
        "a row of this terminal",
    ]


def test_the_state_on_its_way_stands_below_the_lines_until_it_is_here(console: Console) -> None:
    reporter = LiveReporter(console)
    reporter.emit(FETCHING)
    assert reporter._live is not None
    console.print(reporter._render())
    assert describe(FETCHING)[0] in console.export_text()
    reporter.emit(dataclasses.replace(FETCHING, bytes_here=FETCHING.bytes_total))
    assert "fetching the state: 4.0 MB of 4.0 MB" in console.export_text()
    reporter.watch(PEERS[0], list)
    console.print(reporter._render())
    reporter.close()
    assert "tokens/s" in console.export_text()


def test_the_table_stays_below_the_lines_with_every_peer_and_the_last_progress(console: Console) -> None:
    reporter = LiveReporter(console)
    reporter.watch(PEERS[1], lambda: [presence(peer) for peer in PEERS])
    reporter.emit(EVALUATED)
    reporter.emit(PROGRESS)
    console.print(reporter._render())
    reporter.close()
    reporter.close()
    table = console.export_text()
    assert all(peer[-6:] in table for peer in PEERS)
    assert f"{PEERS[1][-6:]} (you)" in table
    assert "step 120  loss 2.718  lr 1.0e-03  held-out 1.988 at height 9" in table


def test_an_accuracy_is_told_where_there_is_one(console: Console) -> None:
    measured = dataclasses.replace(EVALUATED, accuracy=0.71249)
    assert describe(measured) == ["held-out loss 1.9876, accuracy 0.712 at height 9"]
    assert describe(EVALUATED) == ["held-out loss 1.9876 at height 9"]
    reporter = LiveReporter(console)
    reporter.watch(PEERS[1], list)
    reporter.emit(measured)
    reporter.emit(PROGRESS)
    console.print(reporter._render())
    reporter.close()
    assert "held-out 1.988 (71.2%) at height 9" in console.export_text()


@pytest.mark.parametrize("width", [80, 100])
def test_on_a_usual_terminal_no_line_is_too_long(width: int) -> None:
    """With the longest that each place may hold in practice: lines that wrap make a table that is drawn anew jump."""
    console = Console(record=True, width=width, height=24, file=io.StringIO(), force_terminal=False)
    reporter = LiveReporter(console)
    peers = [
        presence(
            peer,
            phase="training",
            height=123_456,
            steps=1_234_567,
            tokens_per_second=123_456.7,
            eval_height=123_456,
            bytes_sent=999_900_000_000,
            device="NVIDIA H100 80GB HBM3",
            max_up=625_000,
            taken_back=1_000,
            name="Otto's laptop in the kitchen",
        )
        for peer in PEERS
    ]
    reporter.watch(PEERS[1], lambda: peers)
    reporter.emit(dataclasses.replace(EVALUATED, height=123_456, accuracy=1.0))
    reporter.emit(dataclasses.replace(PROGRESS, steps=1_234_567))
    console.print(reporter._render())
    reporter.close()
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert len(lines) == 4 + len(peers) + 2, "one row for each peer"
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert lines[-1] == "Ctrl-C: save and leave"


def test_with_more_peers_than_rows_the_rest_is_counted_and_this_one_is_there() -> None:
    console = Console(record=True, width=100, height=24, file=io.StringIO(), force_terminal=False)
    reporter = LiveReporter(console)
    crowd = peer_ids(31)
    me = crowd[-1]
    reporter.watch(me, lambda: map(presence, crowd))
    reporter.emit(PROGRESS)
    console.print(reporter._render())
    reporter.close()
    lines = console.export_text().rstrip().splitlines()
    assert len(lines) < 24
    assert f"{me[-6:]} (you)" in lines[3]
    assert "and 15 other peers" in lines[-3]


def test_the_last_event_ends_the_table(console: Console) -> None:
    reporter = LiveReporter(console)
    reporter.watch(PEERS[0], list)
    reporter.emit(STOPPED)
    assert reporter._live is None


# Which one ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("json_lines", "terminal", "kind"),
    [
        (True, True, JsonReporter),
        (True, False, JsonReporter),
        (False, True, LiveReporter),
        (False, False, PlainReporter),
    ],
)
def test_where_standard_output_goes_decides(
    monkeypatch: pytest.MonkeyPatch, json_lines: bool, terminal: bool, kind: type
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", out)
    assert type(make_reporter(json_lines)) is kind


@pytest.mark.parametrize("kind", [JsonReporter, PlainReporter])
def test_lines_need_no_peers_and_no_end(kind: type[JsonReporter] | type[PlainReporter]) -> None:
    out = io.StringIO()
    reporter = kind(out)
    reporter.watch(PEERS[0], list)
    reporter.close()
    assert out.getvalue() == ""
