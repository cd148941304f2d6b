"""Child processes are heard, and none outlives the block that started it."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2ptrain.commands import children as module
from p2ptrain.commands.children import Children
from p2ptrain.errors import P2PTrainError

# Stands for the interpreter: what would be `python -m p2ptrain COMMAND … --json` becomes one of these.
PROGRAM = """\
#!{python} -S
import json, os, signal, sys
_, module, program, command, *rest = sys.argv
assert (module, program, rest[-1]) == ("-m", "p2ptrain", "--json"), sys.argv

def say(**fields):
    print(json.dumps(fields), flush=True)

if command == "count":
    for number in range(int(rest[0])):
        say(event="number", number=number)
elif command == "fail":
    sys.stderr.write(rest[0] if len(rest) > 1 else "")
    sys.exit(7)
elif command == "describe":
    say(event="self", home=os.environ["P2PTRAIN_HOME"], input=sys.stdin.read())
elif command in ("stay", "stubborn"):
    if command == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(event="here", pid=os.getpid())
    while True:
        signal.pause()
"""


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    program = tmp_path / "program"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(module, "STOP_SECONDS", 5.0)
    made = Children(tmp_path)
    yield made
    made.stop(*made._children)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pid_of(children: Children, name: str) -> int:
    """Wait until a child that stays is there."""
    return next(int(line["pid"]) for who, line in children.lines(10.0) if who == name)


# Hearing them ------------------------------------------------------------------------------------------------------


def test_the_lines_of_all_arrive_in_each_ones_order(children: Children) -> None:
    with children:
        for name, count in (("one", 3), ("two", 5)):
            children.start(name, "count", str(count))
        heard = list(itertools.islice(children.lines(10.0), 10))
    for name, count in (("one", 3), ("two", 5)):
        lines = [line for who, line in heard if who == name]
        assert [line.get("number") for line in lines[:-1]] == list(range(count))
        assert lines[-1] == {"event": "ended", "code": 0}


def test_a_child_lives_in_the_given_home_and_can_not_ask_anybody(children: Children, tmp_path: Path) -> None:
    with children:
        children.start("one", "describe")
        _, line = next(children.lines(10.0))
    assert line == {"event": "self", "home": str(tmp_path), "input": ""}


@pytest.mark.parametrize(("arguments", "why"), [(("out of luck",), "out of luck"), ((), "exit code 7")])
def test_a_child_that_fails_is_an_error_with_its_last_words(
    children: Children, arguments: tuple[str, ...], why: str
) -> None:
    with children:
        children.start("one", "fail", *arguments)
        with pytest.raises(P2PTrainError, match="the process 'one' failed") as told:
            list(children.lines(10.0))
    assert told.value.why == why


def test_silence_is_an_error(children: Children) -> None:
    with children:
        children.start("one", "stay")
        pid_of(children, "one")
        with pytest.raises(P2PTrainError, match="went silent"):
            next(children.lines(0.01))


# Ending them -------------------------------------------------------------------------------------------------------


def test_none_outlives_the_block(children: Children) -> None:
    pids = []

    def fail() -> None:
        with children:
            for name in ("one", "two"):
                children.start(name, "stay")
                pids.append(pid_of(children, name))
            assert all(map(is_running, pids))
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail()
    assert len(pids) == 2
    assert not any(map(is_running, pids))


def test_sigterm_ends_them_too(children: Children) -> None:
    before, pids = signal.getsignal(signal.SIGTERM), []

    def be_asked_to_end() -> None:
        with children:
            children.start("one", "stay")
            pids.append(pid_of(children, "one"))
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        be_asked_to_end()
    assert end.value.code == 143
    assert not is_running(pids[0])
    assert signal.getsignal(signal.SIGTERM) is before


def test_who_does_not_end_is_killed(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.05)
    with children:
        children.start("one", "stubborn")
        pid = pid_of(children, "one")
    assert not is_running(pid)


def test_a_child_that_was_stopped_is_heard_no_more_however_it_ended(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.05)
    with children:
        children.start("one", "stubborn")
        pid_of(children, "one")
        children.stop("one")
        children.start("two", "count", "1")
        assert next(children.lines(10.0)) == ("two", {"event": "number", "number": 0})
