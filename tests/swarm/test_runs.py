"""Public runs: who looks into a swarm sees what goes on there, and joins it by its name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hivemind.dht.routing import DHTID

from p2ptrain.run import Genesis, SigningKey, spec_from_canonical
from p2ptrain.swarm import Swarm, clock
from p2ptrain.swarm.announcement import Announcement
from p2ptrain.swarm.directory import RUNS
from tests.swarm import one_byte
from tests.swarm.lab import LOOPBACK, REPOSITORY, Lab, Peer, assert_agreement, write_spec
from tests.swarm.test_bootstrap import addresses_of
from tests.swarm.test_commands import assert_explained, run_command
from tests.unit.swarm.conftest import Swarms

TEXT = str(REPOSITORY / "p2ptrain" / "**" / "*.py")
Fields = dict[str, Any]


@pytest.fixture
def swarms(tmp_path: Path) -> Iterator[Swarms]:
    """Ordinary nodes in this process."""
    started = Swarms(tmp_path)
    try:
        yield started
    finally:
        started.close()


def start_node(lab: Lab) -> tuple[Peer, str]:
    """A bootstrap node and its invite."""
    node = lab.start("bootstrap", "--listen", LOOPBACK)
    return node, str(node.wait_for("bootstrap")["invite"])


def listed(lab: Lab, invite: str) -> dict[str, Fields]:
    """What `runs` prints, by run id."""
    ended = run_command("runs", "--bootstrap", invite, "--json", home=lab.home)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return {fields["run"]: fields for fields in map(json.loads, ended.stdout.splitlines())}


def wait_until_listed(lab: Lab, invite: str, enough: Callable[[dict[str, Fields]], bool]) -> dict[str, Fields]:
    deadline = time.monotonic() + 60
    while not enough(found := listed(lab, invite)):
        assert time.monotonic() < deadline, found
    return found


def id_of(peer: Peer) -> str:
    return str(peer.wait_for("started")["run"])


def join(lab: Lab, name: str, invite: str) -> Peer:
    return lab.start("join", name, "--bootstrap", invite, "--data", TEXT, "--listen", LOOPBACK, "--threads", "1")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_runs_of_a_swarm_are_listed_and_joined_by_name(lab: Lab) -> None:
    _, invite = start_node(lab)
    assert listed(lab, invite) == {}
    first = lab.found(write_spec(lab.home), "--bootstrap", invite, fault="steady")
    other = lab.found(one_byte.write_spec(lab.home), "--bootstrap", invite, fault="steady")
    began = time.time()
    first.wait_for_height(2)
    one_byte.wait_for_records(other, 32)
    found = wait_until_listed(
        lab, invite, lambda found: all(each["height"] > 0 for each in found.values()) and len(found) == 2
    )
    for peer, name, method in ((first, "tiny", "diloco"), (other, "bytes", "spsa")):
        fields = found[id_of(peer)]
        assert (fields["name"], fields["method"], fields["founder"]) == (name, method, peer.id)
        assert (fields["model"], fields["data"], fields["custom"]) == ("new llama", TEXT, False)
        assert (fields["peers"], fields["last_height"]) == (1, None)
        assert fields["tokens_per_second"] > 0
        assert 0 < fields["loss"] < 6
        assert 0 < fields["age_seconds"] < time.time() - began + 60

    second = join(lab, "tiny", invite)
    together = first.wait_for("commit", lambda event: len(event["contributors"]) == 2, timeout=90)
    second.wait_for_height(together["height"])
    assert_agreement(first, second)
    found = wait_until_listed(lab, invite, lambda found: found[id_of(first)]["peers"] == 2)
    assert found[id_of(other)]["peers"] == 1

    shown = run_command("runs", "--bootstrap", other.invite, home=lab.home)  # any run's invite leads to the swarm
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["tiny", "bytes"]
    status = run_command("status", "tiny", "--bootstrap", invite, home=lab.home)
    assert all(peer.id in status.stdout for peer in (first, second))
    wrong = run_command("join", "timy", "--bootstrap", invite, home=lab.home)
    assert_explained(wrong, 5, "found no run called 'timy'", f"tiny {id_of(first)[:8]}", "bytes")
    unsaid = run_command("join", "tiny", "--bootstrap", invite, home=lab.home)
    assert_explained(unsaid, 7, "trains on files of each volunteer's machine", "--data ")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_runs_of_one_name_are_told_apart(lab: Lab) -> None:
    _, invite = start_node(lab)
    first, impostor = (lab.found(write_spec(lab.home), "--bootstrap", invite) for _ in range(2))
    wait_until_listed(lab, invite, lambda found: len(found) == 2)
    ended = run_command("join", "tiny", "--bootstrap", invite, "--data", TEXT, home=lab.home)
    assert_explained(
        ended, 6, "2 runs are called 'tiny'", id_of(first), id_of(impostor), first.id[-6:], impostor.id[-6:]
    )
    second = join(lab, id_of(first)[:12], invite)
    assert second.wait_for("started", timeout=120)["run"] == id_of(first)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_what_a_hostile_node_puts_into_the_list_changes_nothing(lab: Lab, swarms: Swarms) -> None:
    """Neither what it stores with others nor what it answers itself."""
    node, invite = start_node(lab)
    peer = lab.found(write_spec(lab.home), "--bootstrap", invite, fault="steady")
    before = wait_until_listed(lab, invite, lambda found: len(found) == 1)
    hostile = swarms.start(*addresses_of(node))
    (real,) = hostile.run(hostile.directory.runs(), 10)
    forged = forgeries(real, hostile.key)
    ends = clock.swarm_time() + 600
    for subkey, value, until in (
        *((each.run, each.encoded, ends) for each in forged),
        *((real.run, each.encoded, ends + 1) for each in forged),
        (bytes(32), real.encoded, ends),
        (real.run, b"garbage", ends),
        (None, b"garbage", ends),
        (real.run, real.encoded, clock.swarm_time() + 0.5),
        (real.run, real.encoded, clock.swarm_time() - 1),
    ):
        assert not hostile.run(store_with_others(hostile, subkey, value, until))
    lie(hostile, forged, ends)
    after = listed(lab, invite)  # takes longer than the half second after which the entry would be gone
    assert after.keys() == before.keys() == {id_of(peer)}
    assert {key: after[id_of(peer)][key] for key in ("name", "founder", "model", "peers")} == {
        "name": "tiny",
        "founder": peer.id,
        "model": "new llama",
        "peers": 1,
    }
    assert "Traceback" not in peer.errors + node.errors
    height = max(peer.commits())
    peer.wait_for_height(height + 1)


def forgeries(real: Announcement, key: SigningKey) -> list[Announcement]:
    """The run under another name, and as this key's own."""
    spec = spec_from_canonical(real.spec)
    renamed = spec.model_copy(update={"run": spec.run.model_copy(update={"name": "better"})})
    fields = real.genesis.model_dump()
    return [
        Announcement(genesis=real.genesis, spec=renamed.canonical()),
        Announcement(genesis=Genesis(**{**fields, "spec": renamed.digest}), spec=renamed.canonical()),
        Announcement(genesis=Genesis(**{**fields, "author": key.peer_id}), spec=real.spec),
    ]


async def store_with_others(swarm: Swarm, subkey: bytes | None, value: bytes, until: float) -> bool:
    """Ask every node of the DHT that this one knows to store something in the list of runs; whether any did."""
    protocol, list_id = swarm.directory._dht.protocol, DHTID.generate(source=RUNS)
    packed = protocol.serializer.dumps(value)
    answers = [
        await protocol.call_store(peer, [list_id], [packed], [until], None if subkey is None else [subkey])
        for peer in protocol.routing_table.peer_id_to_uid
    ]
    assert answers
    assert all(answer is not None for answer in answers)
    return any(any(answer) for answer in answers)


def lie(swarm: Swarm, forged: list[Announcement], until: float) -> None:
    """From now on this node answers with these entries when the list is asked for."""
    protocol, list_id = swarm.directory._dht.protocol, DHTID.generate(source=RUNS)
    protocol.record_validator = None
    for each in forged:
        packed = protocol.serializer.dumps(each.encoded)
        assert protocol.storage.store_subkey(list_id, each.run + b"?", packed, until)
