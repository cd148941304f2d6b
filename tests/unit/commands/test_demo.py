"""The demo's arithmetic: speeds, bytes, agreement; and the folder that it empties."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from p2ptrain.commands import demo
from p2ptrain.commands.children import Children, Line
from p2ptrain.commands.demo import Outcome, measure_alone
from p2ptrain.errors import LedgerError, StorageError, UsageError
from p2ptrain.tasks import Evaluation
from tests.unit.monitor.samples import PEERS
from tests.unit.run.specs import spec_with


def end_of(number: int, **fields: Any) -> Line:
    sent = {"contribution": 1000, "snapshot": 20, "gossip": 10, "calls": 30}
    given = {
        "height": 40,
        "commit": "c" * 64,
        "state": "d" * 64,
        "steps": 100,
        "seconds": 100 / 3.8,
        "sent": sent,
        "folder": f"/home/runs/tiny-01234567/{PEERS[number - 1][-6:]}",
    }
    return given | fields


def outcome_of(*ends: Line, **fields: Any) -> Outcome:
    named = {f"peer-{number}": end for number, end in enumerate(ends, 1)}
    given: dict[str, Any] = {
        "spec": spec_with(),
        "alone": 4.0,
        "ends": named,
        "parameters": 1000,
        "found": Evaluation(1.9),
        "bar": demo.Bar(2.3, "bigram entropy of that text"),
    }
    return Outcome(**(given | fields))


TRIO = outcome_of(*map(end_of, (1, 2, 3)))


# Bytes -------------------------------------------------------------------------------------------------------------


def test_gossip_counts_once_for_each_receiver_and_the_rest_once() -> None:
    assert TRIO.sent == 1000 + 20 + 30 + 10 * 2
    ring = 2 * 2 / 3 * 4 * 1000 * 100  # 2 (n - 1) / n of the fp32 gradient, at each of 100 steps
    assert TRIO.times_fewer == pytest.approx(ring / TRIO.sent)


def test_the_ring_is_that_of_the_mean_number_of_steps() -> None:
    uneven = outcome_of(end_of(1, steps=50), end_of(2, steps=150))
    even = outcome_of(end_of(1), end_of(2))
    assert (uneven.sent, uneven.times_fewer) == (even.sent, even.times_fewer)


def test_who_sent_nothing_or_is_alone_can_not_be_compared() -> None:
    silent, alone = outcome_of(end_of(1, sent={}), end_of(2, sent={})), outcome_of(end_of(1))
    assert (silent.sent, silent.times_fewer) == (0.0, None)
    assert (alone.sent, alone.times_fewer) == (1000 + 20 + 30, None)


@given(peers=st.integers(2, 16), parameters=st.integers(1, 10**9), steps=st.integers(1, 10**6))
def test_who_sends_the_ring_itself_sends_one_time_fewer(peers: int, parameters: int, steps: int) -> None:
    ring = 2 * (peers - 1) / peers * 4 * parameters * steps
    ends = [end_of(1, steps=steps, sent={"contribution": ring, "gossip": 0}) for _ in range(peers)]
    assert outcome_of(*ends, parameters=parameters).times_fewer == pytest.approx(1.0)


# Speeds ------------------------------------------------------------------------------------------------------------


class Script:
    """Children whose lines are written down."""

    def __init__(self, lines: Sequence[tuple[str, Line]]) -> None:
        self._lines = lines
        self.started: dict[str, tuple[str, ...]] = {}
        self.stopped: tuple[str, ...] = ()

    def start(self, name: str, *arguments: str) -> None:
        self.started[name] = arguments

    def lines(self, _timeout: float) -> Iterator[tuple[str, Line]]:
        yield from self._lines
        raise AssertionError("it should have heard enough")

    def stop(self, *names: str) -> None:
        self.stopped = names


def speeds(name: str, rate: float, begins: int, ends: int) -> list[tuple[str, Line]]:
    return [
        (name, {"event": "speed", "at": at, "steps": int(rate * (at - begins))}) for at in range(begins + 1, ends + 1)
    ]


def test_the_speed_alone_is_the_mean_over_the_time_in_which_all_were_training() -> None:
    early = speeds("alone-1", 10, 0, 5) + [  # faster while the other one has not begun
        ("alone-1", {"event": "speed", "at": at, "steps": 50 + 6 * (at - 5)}) for at in range(6, 40)
    ]
    lines = sorted(early + speeds("alone-2", 4, 5, 40), key=lambda line: line[1]["at"])
    script = Script(lines)
    assert measure_alone(cast(Children, script), "demo", 2, "3", 12.0) == pytest.approx((6 + 4) / 2)
    assert set(script.stopped) == set(script.started) == {"alone-1", "alone-2"}
    for arguments in script.started.values():
        assert arguments[:2] == ("speed", "demo")
        assert arguments[-2:] == ("--threads", "3")


def test_the_summary_as_json_has_the_lost_share(capsys: pytest.CaptureFixture[str]) -> None:
    demo._print_json(TRIO)
    facts = json.loads(capsys.readouterr().out)
    assert facts["lost_share"] == pytest.approx(0.05)
    assert (facts["steps_per_second_alone"], facts["steps_per_second_together"]) == (4.0, pytest.approx(3.8))
    assert (facts["bytes_sent_per_peer"], facts["times_fewer_than_ring"]) == (TRIO.sent, TRIO.times_fewer)
    assert (facts["held_out_loss"], facts["to_beat"]) == (1.9, 2.3)
    assert "bytes_per_gradient" not in facts


def test_the_summary_for_people_says_the_same() -> None:
    out = StringIO()
    demo._summarize(Console(file=out, width=160), TRIO, 60.0)
    text = out.getvalue()
    assert "all 3 peers at height 40" in text
    assert "1.900 nats per byte (bigram entropy of that text: 2.300)" in text
    assert "lost share       5.0%" in text
    assert f"{TRIO.times_fewer:.0f} times fewer bytes" in text
    assert all(peer[-6:] in text for peer in PEERS)


def test_the_summary_of_a_one_byte_run_counts_bytes_per_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_with({"method": {"name": "spsa"}})
    ends = (end_of(number, height=3000, sent={"gossip": 5000, "calls": 500}) for number in (1, 2, 3))
    outcome, out = outcome_of(*ends, spec=spec), StringIO()
    demo._summarize(Console(file=out, width=160), outcome, 60.0)
    assert "10.5 bytes on the wire per gradient" in out.getvalue()
    assert "lr 1e-06, ε 0.001, clip 64, flush 5 s" in out.getvalue()
    demo._print_json(outcome)
    assert json.loads(capsys.readouterr().out)["bytes_per_gradient"] == 10.5


def test_the_summary_of_a_task_with_labels_tells_the_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    labelled = {"kind": "classification", "text": "{text}", "label_column": "label", "labels": ["no", "yes"]}
    spec = spec_with({"data": {"source": "files", "paths": ["a.csv"]}, "task": labelled})
    outcome, out = replace(TRIO, spec=spec, found=Evaluation(0.5, 0.8125), bar=None), StringIO()
    demo._summarize(Console(file=out, width=160), outcome, 60.0)
    assert "held-out loss    0.500 nats per example, accuracy 81.2%" in out.getvalue()
    demo._print_json(outcome)
    assert json.loads(capsys.readouterr().out)["held_out_accuracy"] == 0.8125


def test_the_summary_of_one_peer_compares_it_with_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    out, alone = StringIO(), outcome_of(end_of(1), bar=None)
    demo._summarize(Console(file=out, width=160), alone, 60.0)
    assert "fewer" not in out.getvalue()
    demo._print_json(replace(alone, found=Evaluation(float("nan"))))
    facts = json.loads(capsys.readouterr().out)
    assert (facts["times_fewer_than_ring"], facts["held_out_loss"]) == (None, None)


@pytest.mark.parametrize(("peers", "told"), [(1, "1 peer is too few"), (2, "2 peers are too few")])
def test_a_run_that_would_wait_for_more_peers_is_refused_at_once(tmp_path: Path, peers: int, told: str) -> None:
    with pytest.raises(UsageError, match=f"{told} for the run 'demo'") as refused:
        demo.run_demo(tmp_path / "demo", "demo", peers, json_lines=False)
    assert "--peers 3" in refused.value.next_step
    assert not (tmp_path / "demo").exists()


# Agreement ---------------------------------------------------------------------------------------------------------


def test_peers_with_one_head_agree() -> None:
    demo._check_agreement(TRIO.ends)


@pytest.mark.parametrize("difference", [{"height": 39}, {"commit": "e" * 64}, {"state": "f" * 64}])
def test_a_peer_with_another_head_is_an_error_that_shows_them_all(difference: dict[str, Any]) -> None:
    with pytest.raises(LedgerError, match="same head") as told:
        demo._check_agreement(outcome_of(end_of(1), end_of(2, **difference)).ends)
    assert "peer-1: 40 dddddddd" in told.value.why
    assert "peer-2: " in told.value.why


# Its folder --------------------------------------------------------------------------------------------------------


def test_its_own_folder_is_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo._empty(folder)
    (folder / "runs").mkdir()
    (folder / "runs" / "old").touch()
    demo._empty(folder)
    assert [path.name for path in folder.iterdir()] == [".p2ptrain-demo"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    demo._empty(tmp_path)
    demo._empty(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_anything_else_is_left_alone(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if kind == "folder":
        place.mkdir()
    precious = place / "precious" if kind == "folder" else place
    precious.write_text("data")
    with pytest.raises(StorageError, match="holds something else") as told:
        demo._empty(place)
    assert "--folder" in told.value.next_step
    assert precious.read_text() == "data"


# While it runs -----------------------------------------------------------------------------------------------------


def test_the_board_shows_the_newest_of_each_peer_and_every_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    out = StringIO()
    monkeypatch.setattr(demo, "REPORT_SECONDS", 0.0)
    board = demo._Board(Console(file=out, width=160))
    with board.live():
        board.show("bootstrap", {"event": "bootstrap", "height": 99})
        board.show("peer-1", {"event": "started", "peer": PEERS[0]})
        board.show("peer-1", {"event": "progress", "height": 2, "loss": 2.5, "steps": 77, "tokens_per_second": 1234.5})
        board.show("peer-1", {"event": "commit", "height": 3, "state": "d" * 64, "steps": [5, 6]})
        board.show("peer-1", {"event": "evaluation", "height": 3, "loss": 2.125})
        board.show("peer-2", {"event": "evaluation", "height": 4, "loss": 2.25})
        board.show("peer-1", {"event": "warning", "text": "a word of [warning]"})
    assert "99" not in out.getvalue()
    assert "peer-1 height 3 loss 2.500" in out.getvalue().splitlines()[-1]
    assert "peer-1: a word of [warning]" in out.getvalue()
    Console(file=out, width=160).print(board._table())
    assert "2.250 @4" in out.getvalue()
    assert "dddddddd │ 77" in out.getvalue(), "its own steps, not those of a commit's contributors"
    assert "2.500 │ 2.125 @3" in out.getvalue(), "the loss of training beside the held-out one"
    assert PEERS[0][-6:] in out.getvalue()
