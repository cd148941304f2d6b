"""What a node checks and tidies before and after p2pd, and how it dials. The rest is tested through `Swarm`."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import NetworkError, UsageError
from p2ptrain.swarm import sockets
from p2ptrain.swarm.addresses import address_parts, is_loopback
from p2ptrain.swarm.node import _dial_failure, _did_not_start
from p2ptrain.swarm.sockets import SocketFolder, check_port
from tests.unit.swarm.conftest import Swarms

# Addresses to listen at ----------------------------------------------------------------------------------------------


@given(
    st.ip_addresses(), st.sampled_from(["tcp", "udp"]), st.integers(0, 65535), st.sampled_from(["", "/", "/quic-v1"])
)
def test_an_address_is_taken_apart(host: object, transport: str, port: int, rest: str) -> None:
    family = "ip6" if ":" in str(host) else "ip4"
    assert address_parts(f"/{family}/{host}/{transport}/{port}{rest}") == (str(host), transport, port)


JUNK = [
    "",
    "/",
    "localhost:80",
    "127.0.0.1",
    "/ip4",
    "/ip4/127.0.0.1",
    "/ip4/127.0.0.1/tcp",
    "/ip4/127.0.0.1/tcp/x",
    "/ip4/127.0.0.1/tcp/-1",
    "/ip4/127.0.0.1/sctp/1",
    "/dns/localhost/tcp/1",
    "/unix/tmp/socket",
]


@pytest.mark.parametrize("address", JUNK)
def test_what_is_no_listen_address_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(UsageError) as refusal:
        check_port(address)
    assert repr(address) in refusal.value.what
    assert "multiaddr" in refusal.value.why
    assert "/ip4/0.0.0.0/tcp/31337" in refusal.value.next_step


@pytest.fixture(params=[("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)], ids=["tcp", "udp"])
def taken(request: pytest.FixtureRequest) -> Iterator[tuple[str, socket.socket]]:
    """A port that a socket of this process occupies, as a multiaddr."""
    transport, kind = request.param
    with socket.socket(socket.AF_INET, kind) as occupant:
        occupant.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            occupant.listen()
        yield f"/ip4/127.0.0.1/{transport}/{occupant.getsockname()[1]}", occupant


def test_a_taken_port_is_refused_and_named(taken: tuple[str, socket.socket]) -> None:
    address, occupant = taken
    with pytest.raises(NetworkError) as refusal:
        check_port(address)
    assert refusal.value.what == f"can't listen at {address}"
    assert refusal.value.why == f"port {occupant.getsockname()[1]} is taken by another process"
    assert "another port" in refusal.value.next_step


def test_a_port_is_free_again_when_its_occupant_is_gone(taken: tuple[str, socket.socket]) -> None:
    address, occupant = taken
    occupant.close()
    check_port(address)
    check_port(address)  # and the check itself leaves it free


def test_any_free_port_will_do() -> None:
    check_port("/ip4/127.0.0.1/tcp/0")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(NetworkError) as refusal:
        check_port("/ip4/192.0.2.1/tcp/31337")
    assert refusal.value.why == os.strerror(errno.EADDRNOTAVAIL)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("/ip4/127.0.0.1/tcp/0", True),
        ("/ip4/127.1.2.3/udp/0/quic-v1", True),
        ("/ip6/::1/tcp/0", True),
        ("/ip4/0.0.0.0/tcp/0", False),
        ("/ip4/192.168.0.1/tcp/0", False),
        ("/dns/localhost/tcp/0", False),
        ("", False),
    ],
)
def test_loopback_addresses_are_told_from_others(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_a_peers_next_address_is_left_alone_while_the_first_one_answers(swarms: Swarms) -> None:
    """p2pd would dial both, and gossip may break if both answer."""
    there, here = swarms.start(), swarms.start()
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        places = [*there.addresses(), f"/ip4/127.0.0.1/tcp/{other.getsockname()[1]}/p2p/{there.peer_id}"]
        here.run(here.node.connect(there.peer_id, places), 20)
        assert there.peer_id in here.run(here.node.connected(), 10)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_a_peer_is_found_behind_addresses_that_lead_nowhere(swarms: Swarms) -> None:
    """One refuses, one never answers, one is nonsense."""
    there, here = swarms.start(), swarms.start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nowhere = ["/ip4/127.0.0.1/tcp/9", f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}", "nonsense"]
        here.run(here.node.connect(there.peer_id, [*nowhere, *there.addresses()]), 20)
        assert there.peer_id in here.run(here.node.connected(), 10)


# What p2pd says of a failed dial -------------------------------------------------------------------------------------


def test_each_addresss_failure_is_told_once() -> None:
    message = """Connect failed. msg=failed to dial 12D3KooWx:
      * [/ip4/127.0.0.1/tcp/1] dial tcp4 127.0.0.1:1: connect: connection refused
      * [/ip4/127.0.0.1/tcp/1] dial backoff
      * [/ip4/192.0.2.1/tcp/1] i/o timeout"""
    assert _dial_failure(message) == (
        "[/ip4/127.0.0.1/tcp/1] dial tcp4 127.0.0.1:1: connect: connection refused; [/ip4/192.0.2.1/tcp/1] i/o timeout"
    )


def test_any_other_failure_is_told_in_its_first_line() -> None:
    assert _dial_failure("no addresses\nmore") == "no addresses"
    assert _dial_failure("something else") == "something else"


@pytest.mark.parametrize(
    ("words", "why", "step"),
    [
        ("Daemon failed to start: PermissionError: [Errno 13] Permission denied: '/x/p2pd'", "'/x/p2pd'", "install"),
        ("Daemon failed to start: OSError: [Errno 8] Exec format error: '/x/p2pd'", "Exec format", "install"),
        ("Daemon failed to start: 2026/11/30 21:15:54 listen tcp4: no such device", "no such device", "--listen"),
        ("Daemon failed to start in 15.0 seconds", "15.0 seconds", "try again"),
        ("Daemon failed to start: None", "", "doctor"),
    ],
)
def test_what_helps_a_daemon_that_does_not_start_follows_from_its_words(words: str, why: str, step: str) -> None:
    error = _did_not_start(words)
    assert why in error.why
    assert step in error.next_step


# Folders of sockets --------------------------------------------------------------------------------------------------


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where socket folders are made: below a temporary folder of this test's own. No socket is bound there, so its path
    may be long."""
    monkeypatch.setattr(sockets, "temporary_folders", lambda: [tmp_path])
    monkeypatch.setattr(sockets, "LONGEST_PLACE", 1000)
    folder = SocketFolder.make()
    folder.remove()
    return folder.path.parent


def test_a_socket_folder_is_private_and_goes_when_removed(parent: Path) -> None:
    folder = SocketFolder.make()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert parent.stat().st_mode & 0o777 == 0o700
    (folder.path / "p2pd.sock").touch()
    folder.remove()
    assert not folder.path.exists()
    folder.remove()  # twice does no harm


def test_folders_of_dead_processes_are_swept_and_those_of_the_living_are_not(parent: Path) -> None:
    alive = SocketFolder.make()
    (alive.path / "p2pd.sock").touch()
    dead = parent / "dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "p2pd.sock").touch()
    newcomer = SocketFolder.make()
    assert not dead.exists()
    assert (alive.path / "p2pd.sock").exists()
    assert newcomer.path != alive.path
    alive.remove()
    newcomer.remove()


def test_a_folder_is_locked_while_its_process_lives(parent: Path) -> None:
    folder = SocketFolder.make()
    probe = FileLock(folder.path / "lock", blocking=False)
    with pytest.raises(TimeoutError):
        probe.acquire()
    folder.remove()


def test_a_folder_open_to_others_is_not_used(parent: Path) -> None:
    parent.chmod(0o755)
    with pytest.raises(NetworkError, match="folder for sockets") as refusal:
        SocketFolder.make()
    assert "open to others" in refusal.value.why
    assert "TMPDIR" in refusal.value.next_step


def test_a_file_in_the_folders_place_is_told(parent: Path) -> None:
    (parent / "lock").unlink()
    parent.rmdir()
    parent.touch()
    with pytest.raises(NetworkError, match="folder for sockets"):
        SocketFolder.make()
