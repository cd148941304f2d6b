"""What the commands hand over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import p2ptrain.bootstrap
import p2ptrain.commands.demo
import p2ptrain.commands.export
import p2ptrain.commands.speed
import p2ptrain.commands.verify
import p2ptrain.peer
from p2ptrain.bootstrap import BootstrapOptions
from p2ptrain.monitor import Reporter
from p2ptrain.monitor.report import JsonReporter, PlainReporter
from p2ptrain.run import load_spec
from p2ptrain.swarm import Invite, NodeConfig
from p2ptrain.tasks import LocalOptions
from tests.unit.cli.conftest import Program
from tests.unit.cli.handed import EXPECTED, Handed, flags
from tests.unit.cli.samples import ADDRESS, BOOTSTRAP, INVITE


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_run_can_be_started_in_a_swarm_that_is_there(
    program: Program, handed: Handed, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    if by == "variable":
        monkeypatch.setenv("P2PTRAIN_BOOTSTRAP", BOOTSTRAP)
    program("peer", "demo", *(("--bootstrap", BOOTSTRAP) if by == "flag" else ()))
    assert handed.config.bootstrap == (ADDRESS,)


@pytest.mark.parametrize(("flag", "kind"), [((), PlainReporter), (("--json",), JsonReporter)])
def test_what_is_told_suits_the_reader(
    program: Program, handed: Handed, flag: tuple[str, ...], kind: type[Reporter]
) -> None:
    program("join", INVITE, *flag)
    assert isinstance(handed.arguments[1], kind)


# How a run begins --------------------------------------------------------------------------------------------------


def test_join_takes_part_in_the_run_of_the_invite(program: Program, handed: Handed) -> None:
    program("join", INVITE)
    assert [(way, subject) for way, subject, _ in handed.began] == [("join", Invite.parse(INVITE))]


def test_peer_founds_a_recipe_or_file_and_resumes_a_folder(program: Program, handed: Handed, tmp_path: Path) -> None:
    for run in ("demo", "run.toml", str(tmp_path)):
        program("peer", run)
    assert [(way, str(subject)) for way, subject, _ in handed.began] == [
        ("found", "demo"),
        ("found", "run.toml"),
        ("resume", str(tmp_path)),
    ]


def test_a_run_that_exists_does_not_become_private(program: Program, handed: Handed, tmp_path: Path) -> None:
    ended = program("peer", str(tmp_path), "--private")
    assert ended.code == 2
    assert "stays as it was founded" in ended.errors
    assert not handed.began


def test_a_recipe_is_meant_also_beside_a_folder_of_its_name(
    program: Program, handed: Handed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the demo, which leaves its folder `demo` behind, is run a second time."""
    (tmp_path / "demo").mkdir()
    recipe = load_spec("demo")
    monkeypatch.chdir(tmp_path)
    program("peer", "demo")
    assert [(way, subject) for way, subject, _ in handed.began] == [("found", "demo")]
    assert program("speed", "demo").code == 0
    assert handed.arguments[0] == recipe


# The other commands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "recipe"),
    [
        ((), "demo"),
        (("--method", "one-byte"), "demo-one-byte"),
        (("--method", "one-byte", "--run", "a.toml"), "a.toml"),
    ],
)
def test_each_method_has_its_demo(program: Program, handed: Handed, given: tuple[str, ...], recipe: str) -> None:
    assert program("demo", *given).code == 0
    assert handed.arguments == (Path("demo"), recipe, 3, False)


def test_speed_measures_a_run_with_the_volunteers_options(program: Program, handed: Handed) -> None:
    names = ["device", "batch-size", "threads", "autocast", "compile", "model", "data"]
    assert program("speed", "demo", "--seconds", "3.5", "--json", *flags(names)).code == 0
    local = LocalOptions("cuda:1", 3, True, True, "/a/model", ("/texts/*.txt", "/more/texts"))
    assert handed.arguments == (load_spec("demo"), local, 2, 3.5, True)


@pytest.mark.parametrize("invite", [None, INVITE])
def test_a_bootstrap_node_starts_a_swarm_or_helps_one(program: Program, handed: Handed, invite: str | None) -> None:
    program("bootstrap", *([invite] if invite else []), *flags(["home", "identity", "listen", "announce"]))
    network = NodeConfig(EXPECTED.listen, EXPECTED.announce, (ADDRESS,) if invite else ())
    assert handed.arguments == (BootstrapOptions(Path("/a/home"), EXPECTED.identity, network),)


def test_what_the_operator_of_a_bootstrap_node_decides_arrives(program: Program, handed: Handed) -> None:
    given = ["--metrics", "127.0.0.1:9090", "--log", "/a/log", "--json"]
    assert program("bootstrap", *given, *flags(["home"])).code == 0
    (options,) = handed.arguments
    assert options == BootstrapOptions(Path("/a/home"), None, NodeConfig(), "127.0.0.1:9090", Path("/a/log"), True)


def test_the_demo_needs_nothing_said(program: Program, handed: Handed) -> None:
    assert program("demo").code == 0
    assert handed.arguments == (Path("demo"), "demo", 3, False)


def test_export_prints_what_was_written(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(run_dir: Path, out: Path, model: str | None, at: int | None) -> str:
        return f"{run_dir} to {out} with {model} at {at}"

    monkeypatch.setattr(p2ptrain.commands.export, "export_run", export)
    assert program("export", "x/a", "b", "--model", "c", "--at", "7").out == "x/a to b with c at 7\n"


def test_verify_and_history_refuse_what_is_no_run_folder(program: Program, tmp_path: Path) -> None:
    for command in ("verify", "history"):
        ended = program(command, str(tmp_path))
        assert ended.code == 8
        assert f"{tmp_path} is not a run folder" in ended.errors


def test_an_export_is_held_against_a_run_by_its_name(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[Any, ...]] = []
    monkeypatch.setattr(p2ptrain.commands.verify, "verify", lambda *given: heard.append(given))
    monkeypatch.setenv("P2PTRAIN_HOME", str(tmp_path))
    folder = tmp_path / "runs" / "tiny-0123abcd" / "me"
    folder.mkdir(parents=True)
    (folder / "genesis").touch()
    assert program("verify", str(tmp_path), "--run", "tiny").code == 0
    assert heard == [(tmp_path, None, folder, False)]
