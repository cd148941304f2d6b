"""Measuring a machine's speed: the peer's own loop, for a while or until somebody asks to stop."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
from pathlib import Path

import pytest

from p2ptrain.commands import speed
from p2ptrain.commands.speed import measure_speed
from p2ptrain.tasks import LocalOptions
from tests.unit.peer.samples import spec_of

LOCAL = LocalOptions(device="cpu", batch_size=2)


def test_programs_get_a_line_now_and_then_and_the_result(
    corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "REPORT_SECONDS", 0.01)
    measure_speed(spec_of(corpus), LOCAL, 1, 0.2, json_lines=True)
    *lines, result = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(lines) > 1
    assert {line["event"] for line in lines} == {"speed"}
    assert [line["steps"] for line in lines] == sorted(line["steps"] for line in lines)
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert result["event"] == "result"
    assert result["device"] == "cpu"
    assert result["tokens_per_second"] == pytest.approx(result["steps_per_second"] * 2 * 32)
    assert result["steps_per_second"] * 0.2 >= lines[-1]["steps"] * 0.5


def test_people_get_one_line(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure_speed(spec_of(corpus), LOCAL, 1, 0.05, json_lines=False)
    assert re.fullmatch(r"\d+\.\d\d inner steps/s, [\d,]+ tokens/s on cpu, batch of 2\n", capsys.readouterr().out)


def test_it_ends_early_when_asked_to(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(io.StringIO):
        """Presses Ctrl-C at the first line."""

        def write(self, text: str) -> int:
            if not self.getvalue():
                signal.raise_signal(signal.SIGINT)
            return super().write(text)

    out = Impatient()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(speed, "REPORT_SECONDS", 0.0)
    measure_speed(spec_of(corpus), LOCAL, 1, 600.0, json_lines=True)
    *before, last = (json.loads(line)["event"] for line in out.getvalue().splitlines())
    assert last == "result"
    assert set(before) == {"speed"}, "a thread hears of Ctrl-C, so a step or two may still follow"
