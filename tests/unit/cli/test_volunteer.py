"""What a volunteer decides arrives, from flags and from variables."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from p2ptrain.peer import Volunteer
from p2ptrain.state import Limits
from p2ptrain.swarm import NodeConfig
from tests.unit.cli.conftest import Program
from tests.unit.cli.handed import ALL, EXPECTED, GIVEN, LIMITS, Handed, flags
from tests.unit.cli.samples import BOOTSTRAP, INVITE


def set_variables(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in names:
        monkeypatch.setenv("P2PTRAIN_" + name.upper().replace("-", "_"), " ".join(ALL[name]) or "1")


@pytest.mark.parametrize("command", [("peer", "demo"), ("join", INVITE)], ids=["peer", "join"])
@pytest.mark.parametrize("by", ["flag", "variable"])
def test_what_the_volunteer_decides_arrives(
    program: Program, handed: Handed, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], by: str
) -> None:
    names = [*GIVEN, *LIMITS]
    if by == "variable":
        set_variables(names, monkeypatch)
    assert program(*command, *(flags(names) if by == "flag" else ())).code == 0
    assert handed.volunteer == EXPECTED
    [(_, _, given)] = handed.began
    assert given == {
        "config": NodeConfig(EXPECTED.listen, EXPECTED.announce),
        "home": EXPECTED.home,
        "identity": EXPECTED.identity,
        "limits": Limits(disk=2_500_000_000, up=300_000.0, down=4_000_000.0),
        "name": "",
        **({"private": False} if command[0] == "peer" else {}),
    }


def test_a_run_that_is_founded_can_be_private(program: Program, handed: Handed) -> None:
    assert program("peer", "demo", "--private").code == 0
    [(way, _, given)] = handed.began
    assert (way, given["private"]) == ("found", True)


@pytest.mark.parametrize("way", ["join", "found", "resume"])
@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("max-disk", Limits(disk=2_500_000_000)),
        ("max-up", Limits(up=300_000.0)),
        ("max-down", Limits(down=4_000_000.0)),
        ("archive", Limits(archive=True)),
    ],
)
def test_each_limit_arrives_alone_however_a_run_begins(
    program: Program,
    handed: Handed,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    way: str,
    name: str,
    limits: Limits,
) -> None:
    command = {"join": ("join", INVITE), "found": ("peer", "demo"), "resume": ("peer", str(tmp_path))}[way]
    program(*command)
    program(*command, *flags([name]))
    set_variables([name], monkeypatch)
    program(*command)
    assert [began for began, _, _ in handed.began] == [way] * 3
    assert [given["limits"] for _, _, given in handed.began] == [Limits(), limits, limits]


@pytest.mark.parametrize("command", [("peer", "demo"), ("join", INVITE)], ids=["peer", "join"])
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--archive --max-disk 10", "--archive and --max-disk contradict each other"),
        ("--no-listen --listen /ip4/0.0.0.0/tcp/1", "--no-listen contradicts --listen and --announce"),
        ("--no-listen --announce /ip4/1.2.3.4/tcp/1", "--no-listen contradicts --listen and --announce"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    program: Program, handed: Handed, command: tuple[str, ...], flags: str, told: str
) -> None:
    ended = program(*command, *flags.split())
    assert ended.code == 2
    assert f"error: {told}\n  why:  " in ended.errors
    assert "  next: " in ended.errors
    assert not handed.began


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--max-up", "5", "give a number and its unit"),
        ("--max-down", "5kbit", "at least 80kbit"),
        ("--hours", "22", "no range of hours"),
        ("--hours", "7-7", "to train all day, leave the hours out"),
        ("--batch-size", "0", "a whole number from 1 on, or auto"),
        ("--batch-size", "Auto", "or auto"),
        ("--name", "n" * 33, "at most 32 characters"),
        ("--name", "a\x1b[1m", "can't be shown (0x1b)"),
        ("--pause-when", "bored", "gpu-busy"),
        ("--max-memory", "0", "0.1"),
    ],
)
def test_a_wrong_value_is_explained(program: Program, handed: Handed, flag: str, value: str, words: str) -> None:
    ended = program("join", INVITE, flag, value)
    assert ended.code == 2
    assert flag in ended.errors
    assert words in " ".join(ended.errors.split())
    assert not handed.began


def test_a_batch_size_can_be_found_out_and_a_name_given(
    program: Program, handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PTRAIN_NAME", " Otto's laptop ")
    program("join", INVITE, "--batch-size", "auto")
    assert handed.volunteer.batch_size is None
    assert [given["name"] for _, _, given in handed.began] == ["Otto's laptop"]


@pytest.mark.parametrize("flag", ["--max-disk", "--max-up", "--max-down", "--max-memory"])
@pytest.mark.parametrize("value", ["0", "-1", "lots", "nan"])
def test_a_limit_is_a_positive_number(program: Program, handed: Handed, flag: str, value: str) -> None:
    ended = program("join", INVITE, flag, value)
    assert ended.code == 2
    assert flag in ended.errors
    assert not handed.began


@pytest.mark.parametrize("name", GIVEN)
def test_each_variable_does_what_its_flag_does_alone(
    program: Program, handed: Handed, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program("join", INVITE)
    untouched = handed.volunteer
    program("join", INVITE, *flags([name]))
    by_flag = handed.volunteer
    set_variables([name], monkeypatch)
    program("join", INVITE)
    assert handed.volunteer == by_flag != untouched


def test_a_flag_wins_over_its_variable(program: Program, handed: Handed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PTRAIN_BATCH_SIZE", "5")
    monkeypatch.setenv("P2PTRAIN_LISTEN", "/ip4/0.0.0.0/tcp/5")
    program("join", INVITE, "--batch-size", "6", "--listen", "/ip4/0.0.0.0/tcp/6")
    assert handed.volunteer.batch_size == 6
    assert handed.config.listen == ("/ip4/0.0.0.0/tcp/6",)


def test_a_variable_is_checked_like_its_flag(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PTRAIN_BATCH_SIZE", "none")
    ended = program("join", INVITE)
    assert ended.code == 2
    assert "P2PTRAIN_BATCH_SIZE" in ended.errors


def test_without_any_the_defaults_are_the_documented_ones(program: Program, handed: Handed) -> None:
    program("join", INVITE)
    assert handed.volunteer == Volunteer()
    assert handed.again == ""
    assert handed.config == NodeConfig()


@pytest.mark.parametrize(
    ("given", "again"),
    [
        (f"join {INVITE} --no-listen --max-up 5Mbit", "--no-listen --max-up 5Mbit"),
        (f"join --name x {INVITE} --hours=22-07 --pause-when cpu-busy", "--name x --hours 22-07 --pause-when cpu-busy"),
        (f"peer demo --home /a/home --bootstrap {BOOTSTRAP} --threads 2 --json", "--threads 2 --json"),
        (f"peer --name demo demo --bootstrap={BOOTSTRAP}", "--name demo"),
        ("peer demo --name demo", "--name demo"),
        (f"join {INVITE} --bootstrap {BOOTSTRAP} --nodes nodes.toml --max-up 5Mbit", "--max-up 5Mbit"),
        ("peer --data=demo --data other demo --data=demo", "--data demo --data other --data demo"),
        ("peer --name --json demo", "--name --json"),
        ("peer --name=--private --no-lan -- demo", "--name --private --no-lan"),
        ("peer demo --threads 2 --threads=3", "--threads 3"),
        ("peer demo --private --home=/a/home --name 'my peer' --name ''", "--name ''"),
        ("peer demo --model=a=b --identity -", "--model a=b --identity -"),
    ],
)
def test_what_was_typed_is_kept_for_the_command_that_resumes(
    program: Program, handed: Handed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, again: str
) -> None:
    monkeypatch.setenv("P2PTRAIN_DEVICE", "cpu")
    monkeypatch.setenv("P2PTRAIN_NO_LISTEN", "1")
    assert program(*shlex.split(given)).code == 0
    assert handed.again == again
    decided = handed.volunteer
    assert program("peer", str(tmp_path), *shlex.split(again)).code == 0
    assert handed.volunteer == replace(decided, home=None), "it means the same again"
    assert handed.again == again
