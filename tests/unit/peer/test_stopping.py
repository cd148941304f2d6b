"""Ctrl-C, SIGTERM and SIGHUP, sent to a real process that loads, or that trains and takes its time to save."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2ptrain.peer import stopping
from p2ptrain.peer.stopping import Stopping

# The module alone, from its file: the package around it takes seconds to import.
PROGRAM = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("stopping", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.TERM_DEADLINE = module.REACT_SECONDS = float(sys.argv[2])
with module.Stopping() as stopping:
    stopping.finish_steps()
    print("training", flush=True)
    while not stopping.requested():
        time.sleep(0.001)
    print("saving", flush=True)
    sys.stdin.read()
    print("saved", flush=True)
"""
LOADING = (
    PROGRAM.split("    stopping.finish")[0]
    + """
    stopping.last_words = "go on with this"
    try:
        print("loading", flush=True)
        while True:
            time.sleep(0.001)
    except KeyboardInterrupt:
        print("reacted", flush=True)
"""
)
"""The same before training."""
LEAVES = """
        stopping.leave()
        sys.stdin.read()
        print("left", flush=True)
"""
SWALLOWS = """
        sys.stdin.read()  # as a library that goes on
"""
HASHES = """
    import contextlib, hashlib
    while True:
        with contextlib.suppress(KeyboardInterrupt):  # if it comes before the call
            print("loading", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 60.0
"""Seconds until a test fails: on a busy machine a process takes its time."""
NEVER = 600.0
"""A deadline that no test reaches."""
SOON = 1.0
"""A deadline before which the main thread must have said one word, also on a busy machine."""
Process = subprocess.Popen[str]
Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Process] = []

    def one(deadline: float = NEVER, program: str = PROGRAM, first: str = "training") -> Process:
        process = subprocess.Popen(
            [sys.executable, "-c", program, stopping.__file__, str(deadline)],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        assert next_line(process) == first
        return process

    yield one
    for process in started:
        process.kill()
        process.communicate()


def next_line(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def told(process: Process) -> str:
    """What it says after a Ctrl-C, on a line of its own: a thread says so, and may be late."""
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"
    return process.stderr.readline().strip()


def ask(process: Process, number: int) -> None:
    process.send_signal(number)
    assert next_line(process) == "saving"


@pytest.mark.parametrize("number", ALL)
def test_one_request_lets_it_save_and_end_well(start: Start, number: int) -> None:
    process = start()
    ask(process, number)
    if number == signal.SIGINT:
        assert told(process) == "finishing the step and saving; Ctrl-C again quits at once"
    assert process.communicate(timeout=PATIENCE) == ("saved\n", "")  # closes its input: it has saved
    assert process.returncode == 0


@pytest.mark.parametrize("first", ALL)
def test_a_second_ctrl_c_ends_it_at_once(start: Start, first: int) -> None:
    process = start()
    ask(process, first)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert next_line(process) == ""


BUSY = (
    "    while not stopping.requested():",
    """
    import hashlib
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # a call that does not return, as a long backward pass
    while not stopping.requested():""",
)


def test_both_are_answered_at_once_also_in_a_call_that_takes_long() -> None:
    program = PROGRAM.replace(*BUSY)
    command = [sys.executable, "-c", program, stopping.__file__, str(NEVER)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert next_line(process) == "training"
            process.send_signal(signal.SIGINT)
            assert "Ctrl-C again quits at once" in told(process)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        finally:
            process.kill()


def test_the_signals_of_a_child_are_its_own() -> None:
    """Ctrl-C goes to all processes of a terminal: what a forked one hears must not count as a second one here."""
    forks = """
    import os, signal, threading
    if (child := os.fork()) == 0:
        os.kill(os.getpid(), signal.SIGINT)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGINT, "it has ended as any process does, without a traceback"
    os.kill(os.getpid(), signal.SIGTERM)  # answered after whatever the child has left here
    while not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()):  # its deadline
        time.sleep(0.001)
"""
    program = PROGRAM.split("    print(")[0] + forks
    command = [sys.executable, "-c", program, stopping.__file__, str(NEVER)]
    assert "Ctrl-C" not in subprocess.run(command, text=True, capture_output=True, timeout=PATIENCE, check=True).stderr


def test_quitting_at_once_shows_the_cursor_that_a_live_table_has_hidden() -> None:
    terminal, its_end = pty.openpty()
    quits = "import importlib.util, sys\n" + PROGRAM.split("module.TERM")[0].split("\n", 2)[2] + "module.quit_now()"
    done = subprocess.run(
        [sys.executable, "-c", quits, stopping.__file__], stdout=its_end, timeout=PATIENCE, check=False
    )
    os.close(its_end)
    assert (done.returncode, os.read(terminal, 100)) == (130, b"\x1b[?25h\r\n")
    os.close(terminal)


def test_who_does_not_save_in_time_after_sigterm_is_ended(start: Start) -> None:
    process = start(deadline=SOON)
    ask(process, signal.SIGTERM)
    assert process.wait(PATIENCE) == 130


def test_nobody_has_asked_at_the_start() -> None:
    with Stopping() as asked:
        assert not asked.requested()


# While it loads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ALL)
def test_while_it_loads_it_is_interrupted_and_given_time_to_leave(start: Start, number: int) -> None:
    process = start(program=LOADING + LEAVES, first="loading")
    process.send_signal(number)
    assert next_line(process) == "reacted"
    if number == signal.SIGINT:
        assert told(process) == "leaving; Ctrl-C again quits at once"
    process.send_signal(signal.SIGTERM)  # does not interrupt it once more
    assert process.communicate(timeout=PATIENCE) == ("left\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize("number", ALL)
def test_a_library_that_goes_on_loading_does_not_keep_the_process(start: Start, number: int) -> None:
    process = start(SOON, LOADING + SWALLOWS, "loading")
    process.send_signal(number)
    assert next_line(process) == "reacted"
    assert process.wait(PATIENCE) == 130
    assert process.stderr is not None
    assert process.stderr.read().endswith("go on with this\n")


def test_a_library_that_does_not_return_does_not_keep_it_either(start: Start) -> None:
    process = start(0.05, PROGRAM.split("    stopping.finish")[0] + HASHES, "loading")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 130


def test_what_was_asked_in_vain_while_loading_holds_for_training() -> None:
    """A library has swallowed the interruption, but was quick enough."""
    with Stopping(quiet=True) as asked:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        asked.finish_steps()
        assert asked.requested()


def test_who_ignores_sighup_goes_on_doing_so() -> None:
    """A process that nohup has started."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Stopping() as asked:
        signal.raise_signal(signal.SIGHUP)
        assert not asked.requested()


def test_a_command_that_is_importing_quits_at_once(start: Start, tmp_path: Path) -> None:
    """torch aborts with a core dump if an exception is raised while it is imported."""
    module = 'import sys\nprint("importing", flush=True)\ntry:\n    sys.stdin.read()\nfinally:\n    print("unwound")\n'
    (tmp_path / "slow.py").write_text(module)
    begin = f"import sys; sys.path.insert(0, {str(tmp_path)!r})" + PROGRAM.split("with module")[0]
    program = begin + "with module.Stopping(quiet=True):\n    import slow\n"
    process = start(program=program, first="importing")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert next_line(process) == ""


def test_signals_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in ALL]
    with Stopping():
        assert [signal.getsignal(number) for number in ALL] != before
    assert [signal.getsignal(number) for number in ALL] == before
    assert signal.set_wakeup_fd(-1) == -1
