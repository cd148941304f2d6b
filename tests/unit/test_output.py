"""Standard streams that fail or are missing, in small processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p2ptrain import output

BEGIN = "from p2ptrain import output; import os, sys; output.open_standard_streams()\n"
LOSES = 'print("lost", flush=True); print("dropped", flush=True); '


def run(program: str, stdout: int, close: tuple[int, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    def without() -> None:
        for descriptor in close:
            os.close(descriptor)

    return subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=without,
        timeout=60,
    )


def run_unread(program: str, reader: int, writer: int) -> subprocess.CompletedProcess[str]:
    """Run it with one end as its output, after the other end was closed."""
    os.close(reader)
    try:
        return run(program, writer)
    finally:
        os.close(writer)


def without_reader(program: str) -> subprocess.CompletedProcess[str]:
    return run_unread(program, *os.pipe())


def on_a_full_disk(program: str) -> subprocess.CompletedProcess[str]:
    with Path("/dev/full").open("w") as full:
        return run(program, full.fileno())


def on_a_closed_terminal(program: str) -> subprocess.CompletedProcess[str]:
    return run_unread(program, *os.openpty())


@pytest.mark.parametrize("lose", [without_reader, on_a_full_disk, on_a_closed_terminal])
def test_who_outlives_its_output_goes_on_and_hears_of_it_once(
    lose: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    told = 'output.outlive(lambda error: output.say_on_stderr("gone")); '
    done = lose(told + LOSES + 'print("well", output.is_gone(), file=sys.stderr)')
    assert (done.returncode, done.stderr) == (0, "warning: gone\nwell True\n")


def test_who_asks_late_is_told_what_has_happened_already() -> None:
    program = (
        "output.outlive(lambda error: None); " + LOSES + 'output.outlive(lambda error: output.say_on_stderr("gone"))'
    )
    assert without_reader(program).stderr == "warning: gone\n"


def test_a_command_that_nobody_reads_ends_without_a_word() -> None:
    """`finally` blocks are run, and what stays in buffers is no second error."""
    program = f'try:\n    {LOSES}\nfinally:\n    print("cleaned up", file=sys.stderr)'
    done = without_reader(program)
    assert (done.returncode, done.stderr) == (output.PIPE_CODE, "cleaned up\n")


def test_a_missing_stream_does_not_lend_its_number_to_a_file(tmp_path: Path) -> None:
    """A database that got the number 1 would be overwritten by what a library prints to it."""
    program = f"""
with open({str(tmp_path / "file")!r}, "w+b") as file:
    assert file.fileno() > 2
    print("to nobody", flush=True); print("to nobody", file=sys.stderr); os.write(1, b"x"); os.write(2, b"x")
    sys.exit(bool(file.read()) or sys.stdin.read() or 3)
"""
    assert run(program, subprocess.PIPE, close=(0, 1, 2)).returncode == 3


def test_a_child_has_the_streams_that_were_missing(tmp_path: Path) -> None:
    program = """
import subprocess
child = "import sys; sys.exit(3 * (None not in (sys.stdin, sys.stdout, sys.stderr)))"
sys.exit(subprocess.call([sys.executable, "-c", child]))
"""
    assert run(program, subprocess.PIPE, close=(0, 1, 2)).returncode == 3


def test_what_a_terminal_has_no_character_for_is_replaced() -> None:
    program = 'print("M\\u00fcller \\udcff \\u2580", output.can_show("\\u2580"))'
    assert run(program, subprocess.PIPE, PYTHONIOENCODING="ascii").stdout == "M?ller ? ? False\n"
    assert run(program, subprocess.PIPE, PYTHONIOENCODING="utf-8").stdout == "Müller ? ▀ True\n"


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    size = 300_000  # more than a pipe holds
    command = [sys.executable, "-c", BEGIN + f'print("x" * {size})']
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE) as process, os.fdopen(reader) as read:
        os.close(writer)
        assert len(read.read()) == size + 1
        assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 0
