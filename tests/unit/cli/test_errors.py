"""What goes wrong is told as what, why and what next, with a documented exit code and without a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import p2ptrain.commands.status
from p2ptrain import errors
from p2ptrain.cli import main
from p2ptrain.cli.app import app
from p2ptrain.errors import P2PTrainError
from p2ptrain.exit_codes import EXIT_CODES, ExitCode, as_markdown
from p2ptrain.run import recipes
from tests.unit.cli.conftest import Ended, Program
from tests.unit.cli.samples import ADDRESS, BAD_INVITES, BOOTSTRAP, INVITE
from tests.unit.run.specs import toml_with

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, P2PTrainError)]
DOCUMENTED = Path(__file__).parents[3] / "docs" / "exit-codes.md"


def assert_explained(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.errors
    lines = ended.errors.splitlines()
    assert lines[0].startswith("error: ")
    assert any(line.startswith("  why:  ") for line in lines)
    assert any(line.startswith("  next: ") for line in lines)
    assert "Traceback" not in ended.errors
    assert ended.out in ("", "connecting\n"), "nothing but what it was about to do"
    for word in words:
        assert word in ended.errors


# Any error ---------------------------------------------------------------------------------------------------------


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command may meet, `status` meets it."""

    def meet(*_: object) -> None:
        raise error

    monkeypatch.setattr(p2ptrain.commands.status, "show_status", meet)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_is_three_lines_and_its_exit_code(
    program: Program, kind: type[P2PTrainError], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(kind("it can't be done", "because of this", "do that"), monkeypatch)
    ended = program("status", INVITE)
    assert ended.code == kind.exit_code
    assert ended.out == ""
    assert ended.errors == "error: it can't be done\n  why:  because of this\n  next: do that\n"


def test_every_kind_has_an_exit_code_of_its_own_and_each_is_documented() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert [each.code for each in EXIT_CODES] == sorted({*codes, 0, 130, 141})
    assert all(each.causes and each.next_steps for each in EXIT_CODES)


def test_the_documentation_of_exit_codes_is_what_explain_says() -> None:
    assert DOCUMENTED.read_text() == as_markdown(), "write it anew: python -m p2ptrain.exit_codes > docs/exit-codes.md"


@pytest.mark.parametrize("each", EXIT_CODES, ids=lambda each: str(each.code))
def test_a_code_is_explained(program: Program, each: ExitCode) -> None:
    ended = program("explain", str(each.code))
    assert (ended.code, ended.errors) == (0, "")
    for words in (str(each.code), each.title, each.meaning, *each.causes, *each.next_steps):
        assert words in ended.out


def test_all_codes_are_listed(program: Program) -> None:
    ended = program("explain")
    assert [line.split()[0] for line in ended.out.splitlines()] == [str(each.code) for each in EXIT_CODES]


@pytest.mark.parametrize(
    ("code", "told"), [("99", "never ends with 99"), ("-1", "never ends with -1"), ("network", "valid integer")]
)
def test_an_unknown_code_is_a_wrong_command_line(program: Program, code: str, told: str) -> None:
    ended = program("explain", "--", code)
    assert ended.code == 2
    assert told in ended.errors


def test_the_commands_that_are_suggested_exist() -> None:
    words = " ".join(step for each in EXIT_CODES for step in each.next_steps)
    commands = set(re.findall(r"p2ptrain ([a-z]+)", words))
    assert commands <= {command.callback.__name__ for command in app.registered_commands if command.callback}


def test_ctrl_c_ends_with_130_and_says_nothing_more(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(KeyboardInterrupt(), monkeypatch)
    ended = program("status", INVITE)
    assert ended.code == 130
    assert "Traceback" not in ended.errors


def test_a_package_that_is_not_installed_is_named(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only a bootstrap node runs there is no torch, among others."""
    raising(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"), monkeypatch)
    assert_explained(program("status", INVITE), 1, "needs the package torch", "pip install p2ptrain")
    raising(ModuleNotFoundError("No module named 'p2ptrain.nowhere'", name="p2ptrain.nowhere"), monkeypatch)
    with pytest.raises(ModuleNotFoundError):
        program("status", INVITE)


def test_a_bug_is_called_one_and_shows_where_it_is(
    program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(ZeroDivisionError("a bug"), monkeypatch)
    monkeypatch.setattr("sys.argv", ["p2ptrain", "status", INVITE])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert "in meet" in told, "the traceback"
    assert "error: this is a bug of p2ptrain\n  why:  ZeroDivisionError: a bug\n" in told


# The command line itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("train",), "No such command 'train'"),
        (("peer",), "Missing argument 'run'"),
        (("join",), "Missing argument 'invite|name'"),
        (("export", "folder"), "Missing argument 'out'"),
        (("peer", "demo", "--bathc-size", "4"), "No such option"),
        (("peer", "demo", "--batch-size", "0"), "--batch-size"),
        (("peer", "demo", "--batch-size", "many"), "--batch-size"),
        (("join", INVITE, "--threads", "0"), "--threads"),
        (("demo", "--peers", "17"), "--peers"),
        (("speed", "demo", "--seconds", "0"), "--seconds"),
    ],
)
def test_a_wrong_command_line_ends_with_2(program: Program, arguments: tuple[str, ...], told: str) -> None:
    ended = program(*arguments)
    assert ended.code == 2
    assert told.lower() in ended.errors.lower()
    assert "Traceback" not in ended.errors


@pytest.mark.parametrize("command", [("peer", "demo"), ("join", INVITE), ("bootstrap",)])
def test_port_0_can_not_be_announced(program: Program, command: tuple[str, ...]) -> None:
    ended = program(*command, "--announce", "/ip4/1.2.3.4/tcp/0")
    assert_explained(ended, 2, "can't announce /ip4/1.2.3.4/tcp/0", "--listen and --announce")


# Invites -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("join",), ("status",), ("bootstrap",), ("peer", "demo", "--bootstrap")])
@pytest.mark.parametrize("kind", BAD_INVITES)
def test_a_bad_invite_ends_with_6(program: Program, command: tuple[str, ...], kind: str) -> None:
    link, told = BAD_INVITES[kind]
    assert_explained(program(*command, link), 6, told)


@pytest.mark.parametrize("command", ["join", "status"])
def test_a_bootstrap_nodes_invite_is_told_from_a_runs(program: Program, command: str, tmp_path: Path) -> None:
    ended = program(command, BOOTSTRAP, *(("--home", str(tmp_path)) if command == "join" else ()))
    assert_explained(ended, 6, "bootstrap node's", "invite")
    assert list(tmp_path.iterdir()) == []


# Names of runs -----------------------------------------------------------------------------------------------------

BY_NAME = [("runs",), ("join", "a-run"), ("status", "a-run")]


@pytest.mark.parametrize("command", BY_NAME)
def test_without_a_known_node_it_is_told_where_to_look(
    program: Program, command: tuple[str, ...], tmp_path: Path
) -> None:
    nodes = tmp_path / "nodes.toml"
    nodes.write_text("# none yet\n")
    ended = program(*command, "--nodes", str(nodes))
    assert_explained(ended, 5, "no bootstrap node is known", f"{nodes} lists none", "--bootstrap INVITE", "peer RUN")


@pytest.mark.parametrize("command", BY_NAME)
def test_a_list_of_nodes_that_can_not_be_read_is_told(
    program: Program, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = tmp_path / "nodes.toml"
    monkeypatch.setenv("P2PTRAIN_NODES", str(nodes))
    assert_explained(program(*command), 6, f"the list of bootstrap nodes {nodes} can't be read", "No such file")
    nodes.write_text("[[node]]\ninvite = 7\n")
    ended = program(*command)
    assert ended.code == 5
    assert f"{nodes}: entry 1: 'invite' is wrong" in ended.errors + ended.out


@pytest.mark.parametrize("command", BY_NAME)
@pytest.mark.parametrize("kind", BAD_INVITES)
def test_a_bad_invite_of_a_swarm_ends_with_6(program: Program, command: tuple[str, ...], kind: str) -> None:
    link, told = BAD_INVITES[kind]
    assert_explained(program(*command, "--bootstrap", link), 6, told)


# Specs -------------------------------------------------------------------------------------------------------------


def commands_for(run: str, tmp_path: Path) -> list[tuple[str, ...]]:
    return [
        ("peer", run, "--home", str(tmp_path / "home")),
        ("speed", run),
        ("demo", "--run", run, "--folder", str(tmp_path / "demo")),
    ]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["peer", "speed", "demo"])
def test_wrong_fields_are_told_with_file_key_found_and_allowed(program: Program, which: int, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(toml_with({"method.inner_step": 100, "method.codec": "int4", "data.held_out": 2.0}))
    ended = program(*commands_for(str(path), tmp_path)[which])
    assert_explained(
        ended,
        3,
        f"{path} is not a valid run spec",
        "method.inner_step: no such field; did you mean 'inner_steps'?",
        "method.codec: found 'int4'; must be 'e3m0', 'int8', 'bf16' or 'fp32'",
        "data.held_out: found 2.0; must be less than or equal to 0.5",
        "p2ptrain new",
    )
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["peer", "speed", "demo"])
def test_an_unknown_recipe_is_told_with_the_known_ones(program: Program, which: int, tmp_path: Path) -> None:
    ended = program(*commands_for("quickstrat", tmp_path)[which])
    assert_explained(ended, 3, "'quickstrat'", "did you mean 'quickstart'?", *recipes())


def test_a_missing_file_is_named(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    assert_explained(program("speed", str(path)), 3, str(path), "No such file")


# Folders -----------------------------------------------------------------------------------------------------------


def test_what_is_no_run_folder_is_told(program: Program, tmp_path: Path) -> None:
    for arguments in (("peer", str(tmp_path)), ("export", str(tmp_path), str(tmp_path / "out"))):
        assert_explained(program(*arguments), 8, f"{tmp_path} is not a run folder", "holds no genesis")


def test_an_address_that_leads_nowhere_is_told(program: Program, tmp_path: Path) -> None:
    """The one test here that starts a node."""
    ended = program("join", INVITE, "--home", str(tmp_path), "--listen", "/ip4/127.0.0.1/tcp/0")
    assert ADDRESS.startswith("/ip4/127.0.0.1/tcp/9/")
    assert_explained(ended, 5, "nobody answers", "connection refused", "ask for a newer invite")
