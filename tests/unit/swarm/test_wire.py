"""What a process's TCP connections carry, as the kernel counts it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from p2ptrain.swarm.wire import HEADER_BYTES, Wire

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@contextlib.contextmanager
def connection(family: socket.AddressFamily = socket.AF_INET) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection within this process."""
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as listening:
        try:
            listening.bind((address, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        listening.listen()
        with socket.create_connection(listening.getsockname()[:2]) as one, listening.accept()[0] as other:
            yield one, other


def move(one: socket.socket, other: socket.socket, count: int) -> None:
    while count:
        size = min(count, 10_000)
        one.sendall(bytes(size))
        left = size
        while left:
            left -= len(other.recv(left))
        count -= size


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_bytes_and_headers_count_in_both_directions(family: socket.AddressFamily) -> None:
    wire = Wire(os.getpid(), inside=True)
    before = wire.carried()
    with connection(family) as (one, other):
        move(one, other, 300_000)
        now = wire.carried()
        for carried in (now.up - before.up, now.down - before.down):  # both ends are this process's
            assert 300_000 + 30 * HEADER_BYTES <= carried <= 300_000 + 2000 * HEADER_BYTES


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_connections_within_the_machine_can_be_left_out(family: socket.AddressFamily) -> None:
    wire = Wire(os.getpid(), inside=False)
    before = wire.carried()
    with connection(family) as (one, other):
        move(one, other, 100_000)
        assert wire.carried() == before


def test_what_a_closed_connection_has_carried_still_counts() -> None:
    wire = Wire(os.getpid(), inside=True)
    with connection() as (one, other):
        move(one, other, 100_000)
        during = wire.carried()
    assert wire.carried() == during
    with connection() as (one, other):
        move(one, other, 50_000)
        assert wire.carried().up >= during.up + 50_000


def test_other_processes_connections_are_not_counted() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            wire = Wire(process.pid, inside=True)
            with connection() as (one, other):
                move(one, other, 100_000)
                assert wire.carried() == (0, 0)
        finally:
            process.kill()


def test_a_process_that_is_not_there_has_no_account() -> None:
    with pytest.raises(OSError, match="No such file"):
        Wire(2**22 + 1, inside=True)
