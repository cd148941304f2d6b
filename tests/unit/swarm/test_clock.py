"""A newcomer takes over the swarm's time, and hivemind's DHT with it."""

from __future__ import annotations

import gc
import sys
import time
import types

import hivemind.dht.node
import hivemind.dht.protocol
import hivemind.utils.timed_storage
import pytest

from p2ptrain.swarm import clock


@pytest.fixture(autouse=True)
def _own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test adopts ends with it."""
    monkeypatch.setattr(clock, "_offset", 0.0)


def test_without_peers_the_swarms_time_is_the_machines() -> None:
    assert clock.adopt([]) == 0.0
    assert abs(clock.swarm_time() - time.time()) < 0.1


@pytest.mark.parametrize("offset", [-3600.0, 0.25, 7200.0])
def test_the_peers_time_is_taken_over(offset: float) -> None:
    now = time.time()
    assert clock.adopt([(now + offset, now)]) == pytest.approx(offset, abs=1e-3)
    assert clock.swarm_time() == pytest.approx(time.time() + offset, abs=0.1)


def test_one_peer_of_three_with_a_wrong_clock_changes_nothing() -> None:
    assert clock.adopt([(1000.0, 990.0), (1001.0, 990.0), (10**9, 990.0)]) == 11.0


def test_the_last_adoption_counts() -> None:
    clock.adopt([(1000.0, 900.0)])
    assert clock.adopt([(1000.0, 999.0)]) == 1.0


def test_hiveminds_dht_asks_the_swarms_clock() -> None:
    now = time.time()
    clock.adopt([(now + 1000.0, now)])
    for module in (hivemind.dht.node, hivemind.dht.protocol, hivemind.utils.timed_storage):
        assert module.get_dht_time() == pytest.approx(time.time() + 1000.0, abs=0.1)


def test_a_module_imported_meanwhile_changes_nothing() -> None:
    """Any allocation may run the garbage collector, and what it ends may import: here it always does."""
    imported = (f"tests.imported_meanwhile_{number}" for number in range(10**6))
    before = set(sys.modules)

    def import_one(_phase: str, _info: dict[str, int]) -> None:
        sys.modules[next(imported)] = types.ModuleType("meanwhile")

    threshold = gc.get_threshold()
    gc.callbacks.append(import_one)
    try:
        gc.set_threshold(1)
        clock.adopt([(1000.0, 900.0)])
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(import_one)
        for name in set(sys.modules) - before:
            del sys.modules[name]
    assert clock.swarm_time() == pytest.approx(time.time() + 100.0, abs=0.1)
