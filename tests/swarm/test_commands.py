"""The commands as users type them: three terminals, a bootstrap node, status, export; and what they leave behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.swarm.lab import LOOPBACK, REPOSITORY, Lab, Peer, wait_until_gone, write_spec


def run_command(*arguments: str, home: Path, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "P2PTRAIN_HOME": str(home), "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "p2ptrain", *arguments]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=timeout)


def assert_explained(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One clear message: what, why, what next; the documented exit code; no traceback."""
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr


def socket_folder(daemon: int) -> Path:
    """Where a p2pd has its sockets, as its command line says."""
    (found,) = set(re.findall(rf"/unix(/\S*/p2ptrain-{os.getuid()}/\w+)/", Path(f"/proc/{daemon}/cmdline").read_text()))
    return Path(found)


def port_of(peer: Peer) -> int:
    from p2ptrain.swarm import Invite

    return int(Invite.parse(peer.invite).addresses[0].split("/")[4])


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_three_terminals_then_status_and_export(lab: Lab) -> None:
    """The quickstart of the README, on one machine: each further peer takes the next free identity and folder."""
    first = lab.found(write_spec(lab.home))
    second, third = lab.join(first), lab.join(first)
    assert len({first.id, second.id, third.id}) == 3
    assert len({first.folder, second.folder, third.folder}) == 3
    for peer, run in ((first, ""), (second, first.wait_for("started")["run"])):
        told = peer.wait_for("loading")
        assert peer.events.index(told) < peer.events.index(peer.wait_for("started"))
        assert (told["run"], told["code"]) == (run, "no code from the network is run")
        assert (told["model"]["what"], told["data"]["place"]) == ("a new llama", "files")
    assert second.wait_for("loading")["founder"] == first.id
    first.wait_for("commit", lambda event: len(event["contributors"]) == 3)
    shown = run_command("status", first.invite, home=lab.home)
    assert shown.returncode == 0, shown.stderr
    assert all(peer.id in shown.stdout for peer in (first, second, third))
    first.wait_for_height(9)
    exported = run_command("export", str(first.folder), str(lab.home / "out"), home=lab.home)
    assert exported.returncode == 0, exported.stderr
    model = AutoModelForCausalLM.from_pretrained(lab.home / "out")
    tokenizer = AutoTokenizer.from_pretrained(lab.home / "out")
    with torch.no_grad():
        logits = model(**tokenizer("def ", return_tensors="pt")).logits
    assert logits.shape == (1, 4, 257)
    assert (lab.home / "out" / "provenance.json").exists()
    again = run_command("export", str(first.folder), str(lab.home / "out"), home=lab.home)
    assert_explained(again, 8, "is not empty")


@pytest.mark.long
def test_a_bootstrap_node_brings_a_run_together(lab: Lab) -> None:
    node = lab.start("bootstrap", "--listen", LOOPBACK)
    invite = node.wait_for("bootstrap")["invite"]
    first = lab.found(write_spec(lab.home), "--bootstrap", invite)
    second = lab.join(first)
    first.wait_for("commit", lambda event: len(event["contributors"]) == 2)
    assert_explained(run_command("join", invite, home=lab.home), 6, "bootstrap node's", "peer RUN --bootstrap")
    assert_explained(run_command("status", invite, home=lab.home), 6, "names no run")
    node.signal(signal.SIGTERM)
    assert node.exit_code() == 0
    height = max(first.commits())
    second.wait_for_height(height + 3)  # a swarm lives on without its bootstrap node


@pytest.mark.parametrize("how", ["ctrl-c", "exception", "kill -9"])
def test_a_peer_leaves_no_process_port_or_socket_behind(lab: Lab, how: str) -> None:
    peer = lab.found(write_spec(lab.home), fault="nan" if how == "exception" else "")
    peer.wait_for("training")
    daemon, port = peer.daemon(), port_of(peer)
    sockets = socket_folder(daemon)
    assert sockets.is_dir()
    assert is_listening(port)
    if how == "ctrl-c":
        peer.wait_for("commit")  # the first step still imports torch, which may swallow a stop
        peer.signal(signal.SIGINT)
    elif how == "kill -9":
        peer.signal(signal.SIGKILL)
    assert peer.exit_code() == {"ctrl-c": 0, "exception": 9, "kill -9": -signal.SIGKILL}[how]
    assert wait_until_gone(daemon)
    assert not is_listening(port)
    if how == "kill -9":  # nobody was left to remove them: the next start does
        next_one = lab.found(write_spec(lab.home))
        next_one.wait_for("commit")
        next_one.signal(signal.SIGINT)
        assert next_one.exit_code() == 0
    assert not sockets.exists()


def test_a_second_ctrl_c_quits_at_once(lab: Lab) -> None:
    peer = lab.found(write_spec(lab.home, min_peers=2))  # waits for others for ever
    assert peer.invite
    daemon = peer.daemon()
    peer.signal(signal.SIGSTOP)
    peer.signal(signal.SIGINT)
    peer.signal(signal.SIGCONT)
    peer.signal(signal.SIGINT)
    assert peer.exit_code(timeout=20) in (0, 130)
    assert wait_until_gone(daemon)


@pytest.mark.long
def test_what_is_in_use_is_said_so(lab: Lab) -> None:
    identity = lab.home / "me.key"
    spec = write_spec(lab.home)
    peer = lab.found(spec, "--identity", str(identity))
    port = port_of(peer)
    taken = run_command("peer", str(spec), "--identity", str(identity), "--listen", LOOPBACK, home=lab.home)
    assert_explained(taken, 4, "me.key is in use", "--identity")
    taken = run_command("peer", str(spec), "--listen", f"/ip4/127.0.0.1/tcp/{port}", home=lab.home)
    assert_explained(taken, 5, f"port {port} is taken", "--listen")
    taken = run_command("peer", str(peer.folder), "--listen", LOOPBACK, home=lab.home)
    assert_explained(taken, 8, "is in use")


@pytest.mark.long
def test_an_invite_that_leads_nowhere_is_explained(lab: Lab) -> None:
    peer = lab.found(write_spec(lab.home))
    invite = peer.invite
    wrong_run = _with_other_run(invite)
    assert_explained(run_command("join", wrong_run, "--listen", LOOPBACK, home=lab.home), 5, "knows the run")
    peer.signal(signal.SIGKILL)
    peer.exit_code()
    assert_explained(run_command("join", invite, "--listen", LOOPBACK, home=lab.home), 5, "connection refused")
    assert_explained(run_command("join", invite[:-3], home=lab.home), 6, "damaged")
    assert_explained(run_command("join", invite.replace("//1.", "//9."), home=lab.home), 6, "version", "update")
    assert_explained(run_command("join", "https://example.org", home=lab.home), 6, "not an invite")


def _with_other_run(link: str) -> str:
    from p2ptrain.run import digest_of
    from p2ptrain.swarm import Invite

    return str(Invite(digest_of(b"another run"), Invite.parse(link).addresses))


@pytest.mark.long
def test_bad_specs_data_and_models_are_explained(lab: Lab) -> None:
    spec = write_spec(lab.home)
    text = spec.read_text()

    def attempt(old: str, new: str) -> subprocess.CompletedProcess[str]:
        assert old in text
        spec.write_text(text.replace(old, new))
        return run_command("peer", str(spec), "--listen", LOOPBACK, home=lab.home)

    assert_explained(attempt("inner_steps = 40", "inner_stps = 40"), 3, "run.toml", "did you mean 'inner_steps'")
    assert_explained(attempt("hidden_size", "hiden_size"), 3, "model.config.hiden_size", "hidden_size")
    assert_explained(attempt("p2ptrain/**/*.py", "nothing-here/*"), 7, "no file matches", "--data")
    table = lab.home / "table.jsonl"
    table.write_text('{"body": "x"}\n')
    data = str(REPOSITORY / "p2ptrain" / "**" / "*.py")
    assert_explained(attempt(data, str(table)), 7, "no column 'text'", "'body'")
    (lab.home / "empty.txt").write_text("")
    assert_explained(attempt(data, str(lab.home / "empty.txt")), 7, "empty")
    broken = lab.home / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama"}')
    start = text.index("architecture")
    model = text[start : text.index("[data]")]
    assert_explained(attempt(model, f'pretrained = "{broken}"\n'), 7, "can't load the model", "--model")


@pytest.mark.long
def test_a_full_disk_ends_the_peer_with_a_clear_message_and_loses_nothing(lab: Lab) -> None:
    peer = lab.found(write_spec(lab.home), fault="disk_full")
    folder = peer.folder
    assert peer.exit_code(timeout=60) == 8
    assert str(folder) in peer.errors
    assert "free some disk space" in peer.errors
    assert "Traceback" not in peer.errors
    again = lab.start("peer", str(folder), "--listen", LOOPBACK, "--threads", "1")
    assert again.wait_for("training")["height"] >= 8
    assert again.id == peer.id
    again.wait_for_height(14)
