"""What the commands hand over, from flags and from the environment."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
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
from p2ptrain.peer import Volunteer
from p2ptrain.peer.hours import Hours
from p2ptrain.peer.volunteer import PauseCause
from p2ptrain.run import load_spec
from p2ptrain.state import Limits
from p2ptrain.state.run import Run
from p2ptrain.swarm import Invite, NodeConfig
from p2ptrain.tasks import LocalOptions
from tests.unit.cli.conftest import Program
from tests.unit.cli.samples import ADDRESS, BOOTSTRAP, INVITE


class Handed:
    """What a command handed over instead of running, and how its run would have begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arguments: tuple[Any, ...] = ()
        self.began: list[tuple[str, Any, dict[str, Any]]] = []
        monkeypatch.setattr(p2ptrain.peer, "run_peer", self.run_peer)
        for module, name in (
            (p2ptrain.commands.speed, "measure_speed"),
            (p2ptrain.bootstrap, "run_bootstrap"),
            (p2ptrain.commands.demo, "run_demo"),
        ):
            monkeypatch.setattr(module, name, self.take)
        for way in ("found", "join", "resume"):
            monkeypatch.setattr(Run, way, self.beginning(way))

    def take(self, *arguments: Any) -> None:
        self.arguments = arguments

    def run_peer(
        self, begin: Callable[[], Run], volunteer: Volunteer, reporter: Reporter, again: tuple[str, ...]
    ) -> None:
        begin()
        self.take(volunteer, reporter, again)

    def beginning(self, way: str) -> Callable[..., None]:
        def begin(subject: Any, **given: Any) -> None:
            self.began.append((way, subject, given))

        return begin

    @property
    def volunteer(self) -> Volunteer:
        """What was decided, however it was said."""
        given: Volunteer = self.arguments[0]
        return given

    @property
    def config(self) -> NodeConfig:
        """The network part of how the run began."""
        given: NodeConfig = self.began[-1][2]["config"]
        return given

    @property
    def again(self) -> str:
        """What is typed once more to resume."""
        return shlex.join(self.arguments[2])


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handed:
    return Handed(monkeypatch)


# Flags and variables -----------------------------------------------------------------------------------------------

GIVEN: dict[str, tuple[str, ...]] = {
    "home": ("/a/home",),
    "identity": ("/a/me.key",),
    "listen": ("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2"),
    "announce": ("/ip4/1.2.3.4/tcp/3", "/dns4/example.org/tcp/3"),
    "device": ("cuda:1",),
    "batch-size": ("3",),
    "threads": ("2",),
    "autocast": (),
    "compile": (),
    "model": ("/a/model",),
    "data": ("/texts/*.txt", "/more/texts"),
    "max-memory": ("7.5",),
    "hours": ("22-07,12-13",),
    "pause-when": ("gpu-busy", "cpu-busy"),
}
LIMITS: dict[str, tuple[str, ...]] = {"max-disk": ("2.5",), "max-up": ("300kB",), "max-down": ("32Mbit",)}
EXPECTED = Volunteer(
    home=Path("/a/home"),
    identity=Path("/a/me.key"),
    listen=("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2"),
    announce=("/ip4/1.2.3.4/tcp/3", "/dns4/example.org/tcp/3"),
    device="cuda:1",
    batch_size=3,
    threads=2,
    autocast=True,
    compile=True,
    model="/a/model",
    data=("/texts/*.txt", "/more/texts"),
    max_memory=7_500_000_000,
    hours=Hours.parse("22-07,12-13"),
    pause_when=(PauseCause.GPU_BUSY, PauseCause.CPU_BUSY),
    max_disk=2_500_000_000,
    max_up=300_000.0,
    max_down=4_000_000.0,
)
ALL = GIVEN | LIMITS | {"archive": ()}


def flags(names: list[str]) -> list[str]:
    return [word for name in names for value in ALL[name] or ("",) for word in (f"--{name}", value) if word]


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
