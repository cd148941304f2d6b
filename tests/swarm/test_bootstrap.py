"""A bootstrap node as a service: small, observable, back after a restart, and not needed by those who have met."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from p2ptrain.run import NO_DIGEST, Digest, digest_of
from p2ptrain.swarm import Invite, Presence, Swarm
from tests.swarm.lab import LOOPBACK, Lab, Peer, assert_agreement, files_of, wait_until_gone, write_spec
from tests.unit.swarm.conftest import Swarms

MEMORY_TARGET = 200e6
"""With few peers; docs/operations.md has what 200 peers cost."""
RUN = digest_of(b"a run")


@pytest.fixture
def swarms(tmp_path: Path) -> Iterator[Swarms]:
    """Ordinary nodes in this process, which has hivemind as it is."""
    started = Swarms(tmp_path)
    try:
        yield started
    finally:
        started.close()


def start_node(lab: Lab, *arguments: str, listen: str = LOOPBACK) -> Peer:
    """On a machine of its own: no peer takes its identity while it is away."""
    home = str(lab.home / "node")
    return lab.start("bootstrap", "--listen", listen, "--metrics", "127.0.0.1:0", "--home", home, *arguments)


def addresses_of(node: Peer) -> tuple[str, ...]:
    return Invite.parse(node.wait_for("bootstrap")["invite"]).addresses


def ask(node: Peer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.wait_for('bootstrap')['metrics']}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def figures(node: Peer) -> dict[str, float]:
    _, text = ask(node, "/metrics")
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def announce(swarm: Swarm, run: Digest) -> None:
    presence = Presence(
        author=swarm.peer_id,
        run=run,
        session=bytes(8),
        beat=1,
        phase="training",
        version="test",
        device="cpu",
        addresses=tuple(swarm.addresses()),
        reachability="loopback",
        height=0,
        commit=NO_DIGEST,
        state=NO_DIGEST,
        weight=0,
        steps=0,
        tokens=0,
        tokens_per_second=0.0,
        loss=None,
        eval_height=0,
        eval_loss=None,
        held_out=NO_DIGEST,
        snapshots=(),
        bytes_sent=0,
        taken_back=0,
        name="",
        max_up=0,
        max_down=0,
    ).signed(swarm.key)
    assert swarm.run(swarm.directory.announce(presence))


def test_a_node_without_torch_serves_ordinary_peers_is_observed_and_comes_back(lab: Lab, swarms: Swarms) -> None:
    """One life of a node: its directory and its calls work with hivemind as it is on the other side; a newcomer at its
    old address finds the run after a restart, although it was announced before only."""
    node = start_node(lab)
    invited = addresses_of(node)
    first = swarms.start(*invited)  # greets it by a call and joins its directory
    second = swarms.start(*invited)
    announce(first, RUN)
    assert set(second.run(second.directory.peers(RUN))) == {first.peer_id}

    wait_until(lambda: figures(node)["p2ptrain_peers_connected"] == 2)
    seen = figures(node)
    assert ask(node, "/healthz") == (200, "ok\n")
    assert seen["p2ptrain_dht_neighbours"] == 2
    assert seen["libp2p_rcmgr_connections"] >= 0  # p2pd's own figures are there, too
    assert seen["p2pd_read_bytes_total"] > 0
    assert not re.search("torch|llvmlite|pyarrow|numpy|safetensors", Path(f"/proc/{node.process.pid}/maps").read_text())
    assert seen["process_resident_memory_bytes"] + seen["p2pd_process_resident_memory_bytes"] < MEMORY_TARGET

    node.signal(signal.SIGTERM)
    assert node.exit_code(timeout=25) == 0
    again = start_node(lab, listen=invited[0].partition("/p2p/")[0])
    assert addresses_of(again) == invited
    newcomer = swarms.start(*invited)
    assert first.peer_id in newcomer.run(newcomer.directory.peers(RUN))

    daemon = again.daemon()
    again.signal(signal.SIGKILL)
    assert wait_until_gone(daemon)


@pytest.mark.long
def test_a_node_whose_daemon_hangs_or_ends_says_so(lab: Lab) -> None:
    node = start_node(lab, "--log", str(lab.home / "node.log"))
    assert ask(node, "/healthz")[0] == 200
    daemon = node.daemon()
    os.kill(daemon, signal.SIGSTOP)
    try:
        wait_until(lambda: ask(node, "/healthz")[0] == 503)
        assert "has not answered" in ask(node, "/healthz")[1]
        assert figures(node)["p2ptrain_healthy"] == 0
    finally:
        os.kill(daemon, signal.SIGCONT)
    wait_until(lambda: ask(node, "/healthz") == (200, "ok\n"))
    os.kill(daemon, signal.SIGKILL)
    assert node.exit_code() == 5
    assert "p2pd" in node.errors
    assert "Traceback" not in node.errors
    assert "has not answered" in (lab.home / "node.log").read_text()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_swarm_lives_on_without_its_bootstrap_node_and_has_it_back(lab: Lab) -> None:
    """Peers remember each other: with no bootstrap node a newcomer joins by a member's invite, and a member comes back.
    The node that returns finds them, so an invite that leads through it is good again."""
    node = start_node(lab)
    invited = addresses_of(node)
    first = lab.found(write_spec(lab.home), "--bootstrap", node.wait_for("bootstrap")["invite"])
    second = lab.join(first)
    first.wait_for("commit", lambda event: len(event["contributors"]) == 2)
    wait_until(lambda: "/ip4/" in "".join(path.read_text() for path in lab.home.glob("node/bootstrap/*/contact.json")))
    node.signal(signal.SIGKILL)
    node.exit_code()

    third = lab.join(first)
    first.wait_for("commit", lambda event: len(event["contributors"]) == 3)
    folder = second.folder
    second.signal(signal.SIGINT)
    assert second.exit_code() == 0
    back = lab.found(folder)
    back.wait_for("commit", lambda event: len(event["contributors"]) == 3)

    again = start_node(lab, listen=invited[0].partition("/p2p/")[0])
    assert addresses_of(again) == invited
    run = Invite.parse(first.invite).run
    link = str(Invite(run, invited))
    fourth = lab.start("join", link, *files_of(first.folder), "--listen", LOOPBACK, "--threads", "1")
    fourth.wait_for("commit", lambda event: len(event["contributors"]) == 4, timeout=90)
    assert_agreement(first, third, back, fourth)
