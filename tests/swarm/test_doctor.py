"""The doctor among real peers on loopback: what an invite leads to, and what is wrong on the way."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import p2ptrain.state.run
from p2ptrain.doctor.swarm import swarm_findings
from p2ptrain.doctor.verdicts import Finding
from p2ptrain.peer import Volunteer
from p2ptrain.run import NO_DIGEST, Digest, Genesis, PeerId, parse_spec
from p2ptrain.state import Blobs, serve
from p2ptrain.swarm import Invite, Swarm, clock
from p2ptrain.swarm.swarm import Hello, HelloAnswer
from tests.swarm.lab import Lab, write_spec
from tests.unit.swarm.conftest import LOOPBACK, Swarms

DIGEST = Digest(bytes([7]) * 32)


@pytest.fixture
def swarms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Swarms]:
    monkeypatch.setattr(clock, "_offset", 0.0)
    started = Swarms(tmp_path)
    try:
        yield started
    finally:
        started.close()


def found(link: object, home: Path, **options: object) -> dict[str, Finding]:
    given = Volunteer(home=home, listen=(LOOPBACK,), device="cpu")
    return {each.check: each for each in swarm_findings(replace(given, **options), str(link))}  # type: ignore[arg-type]


def offer_run(swarm: Swarm, folder: Path) -> Invite:
    """The peer hands out a run's first records, as whoever trains in it."""
    spec = parse_spec(write_spec(folder).read_text(), "run.toml")
    genesis = Genesis.found(spec, NO_DIGEST, NO_DIGEST, "p2ptrain", swarm.key)
    blobs = Blobs()
    blobs.hold(genesis.encoded, "record")
    blobs.hold(spec.canonical(), "record")
    swarm.run(serve(swarm.rpc, blobs))
    return Invite(genesis.digest, tuple(swarm.addresses()))


def test_an_invite_that_leads_to_a_run_is_all_ok_but_files_are_to_be_named(swarms: Swarms, tmp_path: Path) -> None:
    swarm = swarms.start()
    seen = found(offer_run(swarm, tmp_path), tmp_path)
    assert list(seen) == ["swarm", "clock", "reachable", "bandwidth", "run"]
    assert {seen[check].verdict for check in ("swarm", "clock", "reachable")} == {"ok"}, seen
    assert (seen["run"].verdict, seen["run"].next_step) == ("warning", "p2ptrain join INVITE --data FILES")
    assert re.fullmatch(r"[\d.]+ Mbit/s down, [\d.]+ Mbit/s up.*", seen["bandwidth"].text)
    assert "1 of 1 peers of the invite answer" in seen["swarm"].text
    assert "from this machine; no peer outside has tried" in seen["reachable"].text
    assert "tiny: new llama on" in seen["run"].text


class AnHourAhead(Swarm):
    async def _hello(self, peer: PeerId, request: Hello) -> HelloAnswer:
        return (await super()._hello(peer, request)).model_copy(update={"time": time.time() + 4000.0})


def test_a_wrong_clock_a_run_that_nobody_has_and_a_taken_port_are_told(
    swarms: Swarms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(p2ptrain.state.run, "LOOK_FOR_PEERS", 0.5)
    swarm = swarms.start(kind=AnHourAhead)
    port = swarm.addresses()[0].split("/")[4]
    taken = (f"/ip4/127.0.0.1/tcp/{port}",)
    seen = found(Invite(DIGEST, tuple(swarm.addresses())), tmp_path, listen=taken)
    assert (seen["clock"].verdict, seen["clock"].next_step) == ("problem", "timedatectl set-ntp true")
    assert seen["clock"].text.startswith("1 h 6 min behind")
    assert "can't listen" in seen["reachable"].text
    assert seen["run"].verdict == "problem"
    assert "nobody in this swarm knows the run" in seen["run"].text


def test_a_bootstrap_nodes_invite_needs_no_run(swarms: Swarms, tmp_path: Path) -> None:
    swarm = swarms.start()
    seen = found(Invite(None, tuple(swarm.addresses())), tmp_path, announce=(f"{LOOPBACK[:-1]}40001",))
    assert seen["run"].verdict == "ok"
    assert seen["reachable"].verdict == "warning", "it announces a port at which nobody listens"


def test_an_invite_to_nobody_and_a_damaged_one_are_one_problem(swarms: Swarms, tmp_path: Path) -> None:
    gone = swarms.start()
    invite = Invite(DIGEST, tuple(gone.addresses()))
    gone.close()
    (finding,) = found(invite, tmp_path).values()
    assert (finding.check, finding.verdict) == ("swarm", "problem")
    assert "connection refused" in finding.text
    (finding,) = found(str(invite)[:-2], tmp_path).values()
    assert (finding.check, finding.verdict) == ("invite", "problem")
    assert "copy the whole link again" in finding.next_step


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_command_finds_a_training_peer_and_ends_with_0(lab: Lab) -> None:
    peer = lab.found(write_spec(lab.home))
    peer.wait_for("started", timeout=150.0)
    doctor = lab.start("doctor", peer.invite, "--listen", LOOPBACK, "--device", "cpu")
    assert doctor.exit_code(timeout=150.0) == int(any(event["verdict"] == "problem" for event in doctor.events))
    verdicts = {event["check"]: event["verdict"] for event in doctor.events}
    assert {verdicts[check] for check in ("swarm", "clock", "reachable")} == {"ok"}, doctor.events
    assert verdicts["run"] == "warning", "it trains on files"
    assert doctor.errors == ""
