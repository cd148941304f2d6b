"""The README's stories: what is typed in which terminal, and what must appear. The tests play them, and so does the
recorder that makes the pictures in docs/stories/: neither can show anything that the program does not do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.stories.desk import Desk
from tests.stories.terminal import Terminal

START_SECONDS = 150.0
"""For a peer to load torch and its data on a busy machine."""
REVOKED_SECONDS = 30.0
INVITATION = r"^others join with:\n  (p2ptrain join (p2ptrain://\S+))$"
GOODBYE = r"^stopped: height (\d+), .*\nsent .*\n(?:not used: .*\n)?go on with:\n  (p2ptrain peer ~/.+)$"
ROW = re.compile(r"^│ \w{6}(?: \(you\))? +│ (\w+) +│ +(\d+) │", re.M)
"""Of the table of peers: phase and height."""


@dataclass(frozen=True, slots=True)
class Story:
    """One of the README's."""

    name: str
    """Of its files in docs/stories/."""
    title: str
    play: Callable[[Desk], None]


def start_a_peer(desk: Desk) -> None:
    """A peer founds a run and trains; Ctrl-C saves; the command that it printed goes on from there."""
    terminal = desk.open("start a peer")
    terminal.run("p2ptrain peer quickstart")
    terminal.wait_for(INVITATION, START_SECONDS)
    desk.look(2)
    wait_for_trainers(terminal, 1, height=2)
    desk.look(4)
    height, resume = leave(terminal)
    desk.look(4)
    terminal.run(resume)
    terminal.wait_for(rf"^training from height {height} \(\w{{8}}\) with 0 other peers$", START_SECONDS)
    wait_for_trainers(terminal, 1, height=height + 1)
    desk.look(4)
    assert leave(terminal) >= (height + 1, resume)
    desk.look(3)


def join_by_one_link(desk: Desk) -> None:
    """A second peer joins the first one's run with the command that the first one printed; `status` sees both."""
    first, second, third = desk.open("terminal 1"), desk.open("terminal 2"), desk.open("terminal 3", rows=10)
    first.run("p2ptrain peer quickstart")
    join, link = first.wait_for(INVITATION, START_SECONDS).groups()
    wait_for_trainers(first, 1, height=1)
    desk.look(3)
    second.run(join)
    wait_for_trainers(second, 2, height=2, timeout=START_SECONDS)
    wait_for_trainers(first, 2, height=2)
    desk.look(4)
    third.run(f"p2ptrain status {link}")
    third.wait_for(r"^run \w{8}: 2 peers$", START_SECONDS)
    wait_for_trainers(third, 2, height=1)
    third.wait_for_prompt()
    desk.look(5)
    leave(second)
    wait_for_trainers(first, 1, height=2)
    desk.look(3)
    leave(first)
    desk.look(3)


def bootstrap_a_private_swarm(desk: Desk) -> None:
    """A founder invites two people, each with a link of their own, and revokes one of them: that one is out within
    30 s, and its next attempt is refused with the reason."""
    otto, owner = desk.open("otto's terminal", rows=16), desk.open("otto's other terminal", rows=14)
    anna, ben = (desk.open(f"{person}'s terminal", person=person, rows=16) for person in ("anna", "ben"))
    otto.run("p2ptrain peer quickstart --private")
    run = otto.wait_for(r"^  p2ptrain invite (\S+) --label NAME$", START_SECONDS)[1]
    desk.look(4)
    joins = {}
    for name in ("anna", "ben"):
        owner.run(f"p2ptrain invite {run} --label {name}")
        joins[name] = "p2ptrain join " + owner.wait_for(r"p2ptrain://\S+")[0]
        owner.wait_for_prompt()
        desk.look(3)
    anna.run(joins["anna"])
    ben.run(joins["ben"])
    for terminal in (anna, ben, otto):
        wait_for_trainers(terminal, 3, height=1, timeout=START_SECONDS)
    desk.look(4)
    owner.run(f"p2ptrain members {run}")
    owner.wait_for(r"\banna\b(?s:.*)\bben\b")
    owner.wait_for_prompt()
    desk.look(4)
    owner.run(f"p2ptrain revoke {run} ben")
    ben.wait_for("revoked", REVOKED_SECONDS)
    ben.wait_for_prompt()
    for terminal in (anna, otto):
        wait_for_trainers(terminal, 2, height=2)
    desk.look(4)
    ben.run(joins["ben"])
    ben.wait_for("^error: (?s:.*)revoked", START_SECONDS)
    ben.wait_for_prompt()
    desk.look(4)
    leave(anna)
    leave(otto)
    desk.look(3)


def wait_for_trainers(terminal: Terminal, count: int, height: int, timeout: float = 60.0) -> None:
    """Until the table shows just so many peers, all of them training, at this height or above."""

    def look(text: str) -> bool:
        assert text.count("┏") <= 1, "one table, however often it is drawn"
        rows = ROW.findall(text)
        return len(rows) == count and all(phase == "training" and int(at) >= height for phase, at in rows)

    terminal.wait_until(look, f"a table of {count} that train at height {height} or above", timeout)


def leave(terminal: Terminal) -> tuple[int, str]:
    """Press Ctrl-C once. Returns the height of what was saved, and the command that goes on."""
    terminal.press("Ctrl-C")
    terminal.wait_for("^finishing the step and saving; Ctrl-C again quits at once$", timeout=10)
    height, resume = terminal.wait_for(GOODBYE).groups()
    terminal.wait_for_prompt()
    return int(height), resume


STORIES = (
    Story("start", "Start a peer", start_a_peer),
    Story("join", "Join a public swarm from one link", join_by_one_link),
    Story("private", "Bootstrap a private swarm", bootstrap_a_private_swarm),
)
