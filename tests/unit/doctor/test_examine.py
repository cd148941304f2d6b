"""The doctor looks at this machine, and whatever it meets becomes a line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from p2ptrain.doctor import examine as doctor
from p2ptrain.doctor import machine as here
from p2ptrain.doctor import run_doctor
from p2ptrain.doctor.check import checked
from p2ptrain.doctor.examine import as_text, findings
from p2ptrain.doctor.verdicts import Finding
from p2ptrain.errors import NetworkError
from p2ptrain.peer import Volunteer
from p2ptrain.swarm import Identity

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
LOCAL = ["versions", "memory", "open files", "disk", "identity", "temporary", "caches", "/dev/shm", "listen", "device"]


def found(home: Path, **options: Any) -> dict[str, Finding]:
    given = Volunteer(home=home, listen=(LOOPBACK,), device="cpu")
    return {each.check: each for each in findings(replace(given, **options))}


def test_this_machine_is_looked_at_and_nothing_is_left_behind(tmp_path: Path) -> None:
    seen = found(tmp_path / "home")
    assert list(seen) == LOCAL
    assert [seen[check].verdict for check in ("versions", "identity", "listen", "device")] == ["ok"] * 4
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = found(tmp_path / "file" / "home")["disk"]
    assert (finding.verdict, finding.next_step) == ("problem", "--home FOLDER_YOU_CAN_WRITE")
    assert "Not a directory" in finding.text


def test_keys_are_tried(tmp_path: Path) -> None:
    path = tmp_path / "identities" / "1.key"
    used = Identity.open(path)
    assert found(tmp_path)["identity"].text.startswith("all keys are in use")
    assert found(tmp_path, identity=path)["identity"].verdict == "problem"
    used.close()
    assert found(tmp_path)["identity"].text == str(path)
    path.chmod(0o644)
    assert found(tmp_path)["identity"].next_step == f"chmod 400 {path}"
    (path.parent / "2.key").write_bytes(b"no key")
    assert "not a libp2p Ed25519 private key" in found(tmp_path)["identity"].text


def test_an_address_where_nobody_can_listen_is_told(tmp_path: Path) -> None:
    assert found(tmp_path, listen=("/dns/example.org",))["listen"].verdict == "problem"


def test_an_address_that_nobody_can_be_told_is_told(tmp_path: Path) -> None:
    assert "can't announce 'here'" in found(tmp_path, announce=("here",))["listen"].text


def test_a_machine_without_what_others_have_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    seen = found(tmp_path / "home")
    assert seen["temporary"].verdict == "warning"
    assert "/proc/nowhere: No such file" in seen["temporary"].text
    assert f"go to {tmp_path}/home/cache" in seen["caches"].text
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_device_is_told(tmp_path: Path) -> None:
    finding = found(tmp_path, device="abacus")["device"]
    assert finding.verdict == "problem"
    assert "--device" in finding.next_step


def test_a_failure_of_a_check_is_a_finding() -> None:
    def stumble() -> Finding:
        raise ZeroDivisionError("a\nbug")

    def refuse() -> Finding:
        raise NetworkError("no network", "no\n   cable", "plug it in")

    assert checked("it", stumble) == Finding(
        "it", "problem", "this check failed: ZeroDivisionError: a bug", "p2ptrain explain 1"
    )
    assert checked("it", refuse) == Finding("it", "problem", "no network: no cable", "plug it in")


def test_without_torch_the_doctor_says_so_instead_of_falling_over(tmp_path: Path) -> None:
    """And what needs no torch is told before anything imports it."""
    script = f"""
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from p2ptrain.peer import Volunteer
from p2ptrain.doctor.examine import findings
told = findings(Volunteer(home=Path({str(tmp_path)!r})))
print([next(told).check for _ in range(3)], "torch" in sys.modules)
sys.modules["torch"] = None
print([(each.check, each.verdict) for each in told][-1])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=150, check=True)
    assert ended.stdout == "['versions', 'memory', 'open files'] False\n('device', 'problem')\n"


# Output --------------------------------------------------------------------------------------------------------------

TOLD = [Finding("memory", "ok", "plenty"), Finding("listen", "problem", "[::1]:1 is taken", "another port")]


@pytest.fixture
def two_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "findings", lambda volunteer, invite: iter(TOLD))


@pytest.mark.usefixtures("two_findings")
def test_json_lines_hold_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(Volunteer(), None, json_lines=True) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == {
        "event": "finding",
        "check": "listen",
        "verdict": "problem",
        "text": "[::1]:1 is taken",
        "next_step": "another port",
    }


@pytest.mark.usefixtures("two_findings")
def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run_doctor(Volunteer(), None, json_lines=False)
    expected = [line for finding in TOLD for line in as_text(finding).splitlines()]
    assert capsys.readouterr().out.splitlines() == expected
    assert expected[1:] == ["problem  listen      [::1]:1 is taken", "         next: another port"]


def test_another_peers_words_do_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = Finding("swarm", "warning", "p2ptrain \x1b[2J\x07 θ\n9", "\x9b1m try again")
    monkeypatch.setattr(doctor, "findings", lambda volunteer, invite: iter([hostile]))
    run_doctor(Volunteer(), None, json_lines=False)
    assert capsys.readouterr().out == "warning  swarm       p2ptrain [2J θ9\n         next: 1m try again\n"


def test_a_terminal_gets_rows_with_every_word() -> None:
    out = io.StringIO()
    for finding in TOLD:
        Console(file=out, width=60).print(doctor._row(finding))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines == [
        ["ok", "memory", "plenty"],
        ["problem", "listen", "[::1]:1", "is", "taken"],
        ["next", "another", "port"],
    ]


def test_memory_is_this_machines_or_the_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "CGROUP", tmp_path)
    _, machine = here.free_memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert here.free_memory()[1] == machine
    for name, content in (("max", "1000000"), ("current", "700000"), ("stat", "anon 1\ninactive_file 200000\n")):
        (tmp_path / f"memory.{name}").write_text(content)
    assert here.free_memory() == (500_000, 1_000_000)


def test_the_limit_on_open_files_is_read(tmp_path: Path) -> None:
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 256)); "
        "from p2ptrain.peer import Volunteer; from p2ptrain.doctor.examine import findings; "
        "it = findings(Volunteer()); "
        "print([next(it) for _ in range(3)][2])"
    )
    environment = {**os.environ, "P2PTRAIN_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=150, env=environment)
    assert "verdict='problem'" in ended.stdout
    assert "the system's limit is 256" in ended.stdout
