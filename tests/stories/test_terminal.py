"""The driver itself: what it sees, what it types, and what it leaves behind."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.stories import terminal as driver
from tests.stories.desk import Desk
from tests.stories.terminal import Terminal, is_running


@pytest.fixture
def shell(desk: Desk) -> Terminal:
    return desk.open("a shell", columns=40, rows=6)


def test_a_command_is_typed_and_its_output_seen(shell: Terminal) -> None:
    shell.run("echo $((6 * 7)); tty")
    assert shell.wait_for(r"^(\d+)$")[1] == "42"
    assert shell.wait_for(r"^/dev/(pts/|tty)")
    shell.wait_for_prompt()
    assert [command for _, command in shell.typed] == ["echo $((6 * 7)); tty"]


def test_what_came_before_the_last_command_counts_no_more(shell: Terminal) -> None:
    shell.run("echo once")
    shell.wait_for("^once$")
    shell.run("sleep 60")
    with pytest.raises(AssertionError, match="'once' did not appear within 0 s"):
        shell.wait_for("once", timeout=0.3)


def test_a_line_that_is_too_long_is_copied_whole_and_lines_stay_apart(shell: Terminal) -> None:
    link = "p2ptrain://" + "x" * 100 + "end"
    shell.run(f"printf '%s\\n' {link} " + "y" * 40 + " z")
    assert shell.wait_for(r"^p2ptrain://\w+$")[0] == link
    assert shell.wait_for(r"^y+$")[0] == "y" * 40
    shell.wait_for_prompt()
    assert "z\n$" in shell.text()


def test_what_has_scrolled_away_is_still_found(shell: Terminal) -> None:
    shell.run("seq 100 150")
    shell.wait_for_prompt()
    found = re.findall(r"^1\d\d$", shell.text(), re.M)
    assert found == [str(number) for number in range(100, 151)]


def test_what_was_drawn_over_is_not_seen(shell: Terminal) -> None:
    shell.run(r"printf 'loading\r\033[Kready\n\033[1A\033[2Ksteady\n'")
    shell.wait_for("^steady$")
    shell.wait_for_prompt()
    assert "ready\n" not in shell.text()


def test_a_failure_shows_the_screen(shell: Terminal) -> None:
    shell.run("echo some news; sleep 60")
    shell.wait_for("^some news$")
    with pytest.raises(AssertionError, match=r"'other news' did not appear within 0 s(?s:.*)│some news +│"):
        shell.wait_for("other news", timeout=0.2)


@pytest.mark.parametrize("command", ["false", "exit"])
def test_a_program_that_ends_is_waited_for_no_longer(shell: Terminal, command: str) -> None:
    shell.run(command)
    began = time.monotonic()
    with pytest.raises(AssertionError, match="before the program ended"):
        shell.wait_for("something else", timeout=30)
    assert time.monotonic() - began < 10


def test_ctrl_c_reaches_the_program_that_runs(shell: Terminal) -> None:
    shell.run(f"{sys.executable} -c 'import time; print(\"up\"); time.sleep(60)'")
    shell.wait_for("^up$")
    shell.press("Ctrl-C")
    shell.wait_for("KeyboardInterrupt")
    shell.wait_for_prompt()


# What is left behind -------------------------------------------------------------------------------------------------

DEAF = """
import os, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
if "away" in sys.argv and os.fork() == 0:
    os.setsid()
print("process", os.getpid(), flush=True)
time.sleep(60)
"""
"""Does not mind that its terminal is gone."""


def started(shell: Terminal, arguments: str, count: int) -> list[psutil.Process]:
    """What a shell runs after this command."""
    shell.run(f"{sys.executable} deaf.py {arguments}")
    shell.wait_for(r"(?s)" + r"process \d+$.*" * count)
    processes = [psutil.Process(int(found)) for found in re.findall(r"process (\d+)$", shell.text(), re.M)]
    assert len(processes) == count
    return processes


def test_nothing_is_left_of_what_a_terminal_ran(tmp_path: Path) -> None:
    """Jobs in the foreground and in the background, even those that ignore that their terminal is gone."""
    desk = Desk(tmp_path)
    shell = desk.open("a shell")
    (tmp_path / "otto" / "deaf.py").write_text(DEAF)
    shell.run("sleep 60 &")
    shell.wait_for_prompt()
    processes = started(shell, "stay", 1)
    assert all(is_running(process) for process in processes)
    desk.close()
    assert not any(is_running(process) for process in processes)


def test_what_left_its_terminal_and_stays_is_told_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "END_SECONDS", 0.4)
    desk = Desk(tmp_path)
    shell = desk.open("a shell")
    (tmp_path / "otto" / "deaf.py").write_text(DEAF)
    processes = started(shell, "away", 2)
    with pytest.raises(AssertionError, match="still running 0 s after their terminal was closed"):
        desk.close()
    assert not any(is_running(process) for process in processes)
