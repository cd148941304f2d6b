"""Every command explains itself, at once: nothing heavy is imported for it."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from p2ptrain.cli.app import GROUPS, app
from p2ptrain.peer import Volunteer
from p2ptrain.state import RunFolder
from p2ptrain.state.members import MembersFile
from tests.unit.cli.conftest import Program
from tests.unit.run.papers import ANNA, FOUNDER, OWNER, RUN, access, certificate

COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]
TRAINING = ("torch", "transformers", "datasets", "hivemind")
HEAVY = (*TRAINING, "numpy", "cryptography")
VARIABLES = {
    "HOME",
    "IDENTITY",
    "LISTEN",
    "ANNOUNCE",
    "DEVICE",
    "BATCH_SIZE",
    "THREADS",
    "AUTOCAST",
    "COMPILE",
    "MODEL",
    "DATA",
}
NETWORK = {"HOME", "IDENTITY", "LISTEN", "ANNOUNCE"}
LOOKING = {"BOOTSTRAP", "NODES"}
HIDING = {"NO_LISTEN", "NO_LAN"}
LIMITS = {"MAX_DISK", "MAX_UP", "MAX_DOWN", "MAX_MEMORY", "ARCHIVE", "HOURS", "PAUSE_WHEN", "NAME"}


def test_there_are_these_commands() -> None:
    assert set(COMMANDS) == {
        "demo",
        "peer",
        "join",
        "runs",
        "bootstrap",
        "status",
        "export",
        "verify",
        "history",
        "replay",
        "revoke",
        "invite",
        "members",
        "keygen",
        "new",
        "speed",
        "doctor",
        "explain",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_what_it_does_and_takes(program: Program, command: str) -> None:
    ended = program(command, "--help")
    assert ended.code == 0
    assert ended.out.startswith(f"Usage: p2ptrain {command} ")
    summary = next(each.callback.__doc__ for each in app.registered_commands if each.callback.__name__ == command)  # type: ignore[union-attr]
    assert " ".join((summary or "").split()) in ended.flowing
    options = re.findall(r"^  (?:-\w, )?--[\w-]+.*$", ended.out, re.MULTILINE)
    assert options


@pytest.mark.parametrize("arguments", [("--help",), ()])
def test_the_program_lists_its_commands(program: Program, arguments: tuple[str, ...]) -> None:
    ended = program(*arguments)
    told = ended.out + ended.errors
    assert told.startswith("Usage: p2ptrain ")
    assert all(re.search(rf"^  {command} ", told, re.MULTILINE) for command in COMMANDS)


def test_the_commands_are_listed_in_groups(program: Program) -> None:
    told = program("--help").out
    sections = re.findall(r"^([A-Z][a-z ]+):\n((?:  .+\n)+)", told + "\n", re.MULTILINE)
    listed = {title: re.findall(r"^  (\w+)", rows, re.MULTILINE) for title, rows in sections if title != "Options"}
    assert listed == {title: [each.__name__ for each in commands] for title, commands in GROUPS.items()}
    assert "..." not in told.partition("Train:")[2], "each fits on its line"


@pytest.mark.parametrize("command", ["peer", "join"])
def test_each_decision_of_a_volunteer_is_an_option(program: Program, command: str) -> None:
    told = program(command, "--help").flowing
    for name, field in inspect.signature(Volunteer, eval_str=True).parameters.items():
        option = get_args(field.annotation)[1]
        flag = " ".join(filter(None, ("--" + name.replace("_", "-"), option.value)))
        assert f" {flag} {option.help} [env var: P2PTRAIN_{name.upper()}" in told
        if option.otherwise:
            assert f"P2PTRAIN_{name.upper()}; default: ({option.otherwise})]" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_every_value_of_an_option_is_named(program: Program, command: str) -> None:
    """By what it is, not by a type of Python's."""
    assert not re.findall(r"^  --[\w-]+ <.*", program(command, "--help").out, re.MULTILINE)


def test_the_version_is_printed(program: Program) -> None:
    assert program("--version").out == importlib.metadata.version("p2ptrain") + "\n"


def completions(*words: str) -> list[str]:
    """What bash is offered for the last of the words, by a process of its own."""
    environment = {
        "_P2PTRAIN_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": f"{len(words) - 1}",
    }
    script = "import sys; sys.argv = ['p2ptrain']; from p2ptrain.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=os.environ | environment
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


def test_a_shell_can_complete_commands_options_and_choices(program: Program) -> None:
    assert sorted(completions("p2ptrain", "re")) == ["replay", "revoke"]
    assert completions("p2ptrain", "join", "--max-m") == ["--max-memory"]
    assert completions("p2ptrain", "join", "--pause-when", "g") == ["gpu-busy"]
    assert "--install-completion" in program("--help").out


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ("peer", VARIABLES | LIMITS | HIDING | {"BOOTSTRAP"}),
        ("join", VARIABLES | LIMITS | HIDING | LOOKING),
        ("runs", LOOKING),
        ("status", LOOKING),
        ("bootstrap", NETWORK | {"METRICS", "LOG"}),
        ("speed", VARIABLES - NETWORK),
        ("export", {"MODEL"}),
        ("doctor", NETWORK | {"DEVICE"}),
    ],
)
def test_environment_variables_are_shown(program: Program, command: str, variables: set[str]) -> None:
    shown = re.findall(r"\[env var: P2PTRAIN_(\w+)", program(command, "--help").flowing)
    assert set(shown) == variables


def test_help_and_new_import_nothing_heavy_and_never_torch() -> None:
    """In a process of its own, which prints what it has imported."""
    script = f"""
import sys
from p2ptrain.cli.app import app

def run(*arguments):
    try:
        app(list(arguments))
    except SystemExit:
        pass

run("--help")
run("--version")
for command in {COMMANDS!r}:
    run(command, "--help")
    run(command, "--no-such-flag")
print("helped with", sorted(set(sys.modules) & set({HEAVY!r})))
run("new")
run("explain", "5")
print("written with", sorted(set(sys.modules) & set({TRAINING!r})))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "helped with []" in ended.stdout
    assert ended.stdout.endswith("written with []\n")


def test_an_owner_s_commands_do_without_torch(tmp_path: Path) -> None:
    """In a process of its own: a key, and an order to the peers of a DiLoCo run, of whom nobody is there."""
    with RunFolder.create(tmp_path, *RUN, FOUNDER.peer_id) as folder:
        MembersFile.begin(folder.path, access(certificate(ANNA)), None)
    (tmp_path / "owner.key").write_bytes(OWNER.to_file_bytes())
    script = f"""
import sys
from p2ptrain.cli.app import app
from p2ptrain.errors import NetworkError

app(["keygen", "other.key"], standalone_mode=False)
try:
    app(["revoke", {str(folder.path)!r}, {ANNA.peer_id!r}, "--owner-key", "owner.key"], standalone_mode=False)
except NetworkError as error:
    print(error.what)
print(*sorted(set(sys.modules) & set({TRAINING!r})))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path
    )
    assert ended.stdout.splitlines()[1:] == ["this folder knows no peer of the run", "hivemind"], ended.stderr


def test_the_package_runs_as_a_module() -> None:
    ended = subprocess.run([sys.executable, "-m", "p2ptrain", "--help"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert "Usage:" in ended.stdout
