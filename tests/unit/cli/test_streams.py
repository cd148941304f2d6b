"""Commands whose output nobody reads, can't be written, or has no character for something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = [("new",), ("--help",), ("peer", "--help"), ("explain",), ("explain", "5"), ("--version",)]


def start(arguments: tuple[str, ...], how: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$@" {how}', "sh", sys.executable, "-m", "p2ptrain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_that_goes_away_ends_a_command_quietly(arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "p2ptrain", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("how", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_needs_no_streams(arguments: tuple[str, ...], how: str) -> None:
    done = start(arguments, how)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (">&-" not in how.split())


def test_a_missing_standard_error_does_not_put_errors_elsewhere() -> None:
    done = start(("explain", "99"), "2>&-")
    assert (done.returncode, done.stdout) == (2, "")


def test_output_that_cant_be_written_is_an_error() -> None:
    done = start(("new",), "> /dev/full")
    assert done.returncode == 8
    assert done.stderr == (
        "error: can't write to standard output\n  why:  No space left on device\n  next: free space there\n"
    )


@pytest.mark.parametrize("how", ["", "> /dev/full"])
def test_an_error_keeps_its_code_whatever_becomes_of_the_output(how: str) -> None:
    done = start(("explain", "99"), how)
    assert done.returncode == 2
    assert done.stderr.startswith("error: p2ptrain never ends with 99\n")


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_terminal_without_some_characters_gets_the_others(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = start(arguments, "", **ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_ctrl_c_before_the_program_can_answer_prints_no_traceback() -> None:
    """It is still importing: it ends as any process does."""
    program = """
import signal, sys, runpy, builtins
find = builtins.__import__
def press(name, *rest, **more):
    if name == "typer":
        signal.raise_signal(signal.SIGINT)
    return find(name, *rest, **more)
builtins.__import__ = press
sys.argv = ["p2ptrain", "new"]
runpy.run_module("p2ptrain.__main__", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
