"""How many threads training takes beside others."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil
import pytest
import torch

from p2ptrain.peer.cores import FREE_SECONDS, LONGEST_SECONDS, LOOK_SECONDS, Cores, OthersShare, others_share
from tests.unit.swarm.conftest import eventually


@pytest.mark.parametrize(
    ("total", "idle", "own", "share"),
    [
        (20.0, 10.0, 10.0, 0.0),
        (20.0, 4.0, 10.0, 0.3),
        (20.0, 0.0, 20.5, 0.0),
        (0.0, 0.0, 0.0, 0.0),
        (8.0, 6.0, 0.0, 0.25),
    ],
)
def test_what_is_neither_idle_nor_ones_own_is_others(total: float, idle: float, own: float, share: float) -> None:
    assert others_share(total, idle, own) == pytest.approx(share)


def test_this_processs_own_work_is_nobody_elses() -> None:
    probe = OthersShare()
    before = probe._before
    sum(range(10**6))
    total, _, own = (now - then for now, then in zip(probe._times(), before, strict=True))
    assert 0.0 <= own <= total + 0.1
    assert 0.0 <= probe() <= 1.0


def test_another_process_that_computes_is_seen() -> None:
    probe, alone = OthersShare(), ["sh", "-c", "while :; do :; done & wait"]  # what computes is no child of this one
    with subprocess.Popen(alone, start_new_session=True) as other:
        try:

            def is_seen() -> bool:
                time.sleep(0.2)  # for the kernel to count it
                return probe() * (psutil.cpu_count() or 1) > 0.5

            eventually(is_seen)
        finally:
            os.killpg(other.pid, signal.SIGKILL)


class Machine:
    """Cores that peers, and somebody who works there, share evenly; a clock that goes from look to look."""

    def __init__(self, cores: int, peers: int = 1) -> None:
        self.cores, self.now, self.work = cores, 0.0, 0.0
        self.peers = [
            Cores(cores, cores, lambda me=me: self.others(me), lambda _: None, lambda: self.now)  # type: ignore[misc]
            for me in range(peers)
        ]

    def others(self, me: int) -> float:
        wanted = [float(peer.threads) for peer in self.peers] + [self.work]
        scale = min(1.0, self.cores / sum(wanted))
        return scale * (sum(wanted) - wanted[me]) / self.cores

    def run(self, seconds: float) -> list[tuple[int, ...]]:
        """Threads of all peers after each look."""
        seen = []
        for _ in range(int(seconds / LOOK_SECONDS)):
            self.now += LOOK_SECONDS
            for peer in self.peers:
                peer.look()
            seen.append(tuple(peer.threads for peer in self.peers))
        return seen


def test_a_peer_alone_keeps_all_cores_whatever_a_desktop_takes() -> None:
    machine = Machine(4)
    machine.work = 0.2
    assert set(machine.run(600)) == {(4,)}


def test_a_peer_makes_way_within_seconds_and_comes_back_after_a_minute() -> None:
    machine = Machine(4)
    machine.work = 2.0
    assert machine.run(3 * LOOK_SECONDS)[-1] == (2,)
    machine.work = 0.0
    seen = machine.run(FREE_SECONDS + 3 * LOOK_SECONDS)
    assert seen[int(0.9 * FREE_SECONDS / LOOK_SECONDS)] == (2,)
    assert seen[-1] == (4,)


def test_a_moment_of_work_changes_nothing() -> None:
    machine = Machine(4)
    for _ in range(50):
        machine.work = 3.0
        machine.run(LOOK_SECONDS)
        machine.work = 0.0
        assert machine.run(LOOK_SECONDS) == [(4,)]


@pytest.mark.parametrize(("cores", "peers"), [(2, 2), (4, 2), (8, 2), (8, 4), (2, 3), (4, 3), (16, 3), (2, 8)])
def test_peers_on_one_machine_soon_have_no_more_threads_than_it_has_cores(cores: int, peers: int) -> None:
    machine = Machine(cores, peers)
    seen = machine.run(LONGEST_SECONDS)[5:]
    crowded = [threads for threads in seen if sum(threads) > max(cores, peers)]
    assert len(crowded) < 0.05 * len(seen)
    assert min(map(min, seen)) >= 1


def test_torch_is_told_for_the_thread_that_trains() -> None:
    before, shares, clock = torch.get_num_threads(), iter([1.0, 1.0]), iter([0.0, LOOK_SECONDS, 2 * LOOK_SECONDS])
    try:
        cores = Cores(2, 2, lambda: next(shares), clock=lambda: next(clock))
        for _ in range(2):
            cores.look()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
