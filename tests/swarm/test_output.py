"""A peer whose output fails, or whose terminal is closed, goes on training, or saves."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.swarm.lab import LOOPBACK, environment, write_spec

Process = subprocess.Popen[str]
Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a peer that founds a run; `how` are redirections of a shell."""
    started: list[Process] = []

    def one(spec: Path, *options: str, how: str = "", **streams: Any) -> Process:
        arguments = ["peer", str(spec), "--threads", "1", "--batch-size", "4", "--listen", LOOPBACK, *options]
        command = ["sh", "-c", f'exec "$@" {how}', "sh", sys.executable, "-m", "p2ptrain", *arguments]
        started.append(subprocess.Popen(command, env=environment(tmp_path), cwd=tmp_path, text=True, **streams))
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.communicate()


def run_folder(home: Path) -> Path:
    [folder] = home.glob("runs/*/*")
    return folder


@pytest.mark.parametrize("options", [("--json",), ()], ids=["json", "lines"])
def test_training_goes_on_when_nobody_reads_any_more(start: Start, tmp_path: Path, options: tuple[str, ...]) -> None:
    peer = start(write_spec(tmp_path), *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert peer.stdout is not None
    assert peer.stderr is not None
    for line in peer.stdout:
        if "commit" in line:
            break
    peer.stdout.close()
    told = peer.stderr.readline()
    assert told == "warning: standard output is gone (Broken pipe): the peer goes on without it\n"
    peer.send_signal(signal.SIGINT)
    errors = peer.stderr.read()
    assert peer.wait(60) == 0
    folder = run_folder(tmp_path)
    assert (folder / "checkpoint.pt").exists()
    assert f"  p2ptrain peer {folder}" in errors, "the command that resumes is told where it can be read"
    assert "Traceback" not in errors


@pytest.mark.parametrize("how", ["<&- >&- 2>&-", ">&-", ">/dev/full 2>/dev/full"])
def test_a_run_is_trained_to_its_end_without_any_output(start: Start, tmp_path: Path, how: str) -> None:
    peer = start(write_spec(tmp_path, inner_steps=4, total_steps=32), how=how)
    assert peer.wait(120) == 0
    folder = run_folder(tmp_path)
    assert (folder / "checkpoint.pt").exists()
    log = (folder / "log.txt").read_text()
    assert "the run is complete: height 16" in log
    assert ("standard output is gone (No space left on device)" in log) == ("full" in how)


def test_who_closes_the_terminal_finds_everything_saved(start: Start, tmp_path: Path) -> None:
    """The kernel sends SIGHUP then, and nothing can be written any more."""
    terminal, its_end = pty.openpty()
    peer = start(write_spec(tmp_path), stdin=its_end, stdout=its_end, stderr=its_end)
    os.close(its_end)
    shown, deadline = b"", time.monotonic() + 150
    while not re.search(rb"loss \d", shown):
        readable, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"no loss is shown, the last words are {shown[-3000:]!r}"
        shown += os.read(terminal, 1 << 16)
    os.close(terminal)
    peer.send_signal(signal.SIGHUP)  # from the kernel, if the terminal were the process's own
    assert peer.wait(60) == 0
    folder = run_folder(tmp_path)
    assert (folder / "checkpoint.pt").exists()
    assert f"p2ptrain peer {folder}" in (folder / "log.txt").read_text()
