"""A private run from outside and from inside, with real peers of either method."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.swarm import one_byte
from tests.swarm.lab import LOOPBACK, REPOSITORY, Lab, Peer, files_of, write_spec

OUT = 12
"""The exit code of who is not let in."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.close()


def command(lab: Lab, *arguments: str) -> str:
    """What another command prints, beside the running peers."""
    environment = {**os.environ, "P2PTRAIN_HOME": str(lab.home), "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        [sys.executable, "-m", "p2ptrain", *arguments], env=environment, cwd=lab.home, text=True, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def invite(lab: Lab, owner: Peer, label: str) -> str:
    return str(json.loads(command(lab, "invite", str(owner.folder), "--label", label, "--json"))["invite"])


def join(lab: Lab, owner: Peer, link: str, home: str) -> Peer:
    """A member on a machine of its own."""
    own = ("--listen", LOOPBACK, "--threads", "1", "--home", str(lab.home / home))
    return lab.start("join", link, *files_of(owner.folder), *own)


def members(lab: Lab, peer: Peer) -> dict[str, dict[str, str]]:
    """By id."""
    lines = command(lab, "members", str(peer.folder), "--json").splitlines()
    return {member["peer"]: member for member in map(json.loads, lines)}


Trains = Callable[[Peer, float], object]


def diloco(home: Path) -> tuple[Path, Trains]:
    return write_spec(home, inner_steps=20, fragments=2, min_peers=2), lambda peer, after: peer.wait_for(
        "commit", lambda event: len(event["contributors"]) > 1, 60, after
    )


def spsa(home: Path) -> tuple[Path, Trains]:
    def trains(peer: Peer, after: float) -> None:
        records = max((event["height"] for event in peer.events if event["event"] == "progress"), default=0)
        one_byte.wait_for_records(peer, records + 100, after=after)

    return one_byte.write_spec(home, min_peers=2), trains


METHODS = {"Streaming DiLoCo": diloco, "one-byte SPSA": spsa}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_private_swarm_takes_in_two_members_and_shuts_one_out(
    lab: Lab, method: Callable[[Path], tuple[Path, Trains]]
) -> None:
    spec, trains = method(lab.home)
    owner = lab.found(spec, "--private")
    anna_s, ben_s = (invite(lab, owner, label) for label in ("anna", "ben"))
    anna, ben = join(lab, owner, anna_s, "anna"), join(lab, owner, ben_s, "ben")
    for peer in (owner, anna, ben):
        trains(peer, 0.0)
    assert {(each["label"], each["role"], each["refusal"]) for each in members(lab, owner).values()} == {
        ("", "owner", ""), ("anna", "member", ""), ("ben", "member", ""),
    }  # fmt: skip

    began = time.monotonic()
    told = command(lab, "revoke", str(owner.folder), "ben")
    assert f"{ben.id[-6:]} is revoked" in told
    assert ben.exit_code(30) == OUT
    assert time.monotonic() - began < 30
    assert "revoked by the owner" in ben.errors
    stopped = ben.wait_for("stopped")
    assert (stopped["reason"], stopped["resume"]) == ("shut out", "")

    refused, another = join(lab, owner, ben_s, "ben"), join(lab, owner, ben_s, "ben's other home")
    assert (refused.exit_code(60), another.exit_code(60)) == (OUT, OUT)
    assert f"revoked by the owner {owner.id[-6:]}" in refused.errors
    assert "invite was closed" in another.errors

    for peer in (owner, anna):
        trains(peer, time.monotonic())
        assert members(lab, peer)[ben.id]["refusal"].startswith("revoked by the owner")
    assert "Traceback" not in "".join(peer.errors for peer in lab.peers)
