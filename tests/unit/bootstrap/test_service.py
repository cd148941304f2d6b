"""What a bootstrap node remembers, says of itself and refuses, without a network."""

from __future__ import annotations

import logging
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2ptrain import output
from p2ptrain.bootstrap import service as bootstrap
from p2ptrain.bootstrap.health import STALE_SECONDS, Look
from p2ptrain.bootstrap.metrics import MetricsServer, NodeCollector, parse_address
from p2ptrain.bootstrap.service import ADDRESSES_OF_ONE, Regulars
from p2ptrain.errors import NetworkError, StorageError, UsageError
from p2ptrain.run import PeerId, SigningKey
from p2ptrain.state.contact import REMEMBERED_ADDRESSES, Contact
from p2ptrain.swarm import monotonic

REPOSITORY = Path(__file__).parents[3]
HEAVY = {"torch", "transformers", "datasets", "numba", "pandas", "scipy", "peft", "numpy", "safetensors"}
SCRIPT = """
import importlib, pkgutil, sys
from importlib.metadata import packages_distributions, version
import p2ptrain.cli.app
import p2ptrain.cli.bootstrap
from p2ptrain.lean import spare_torch

spare_torch()
import p2ptrain.bootstrap.service
import p2ptrain.commands.runs
import p2ptrain.state.home
import hivemind.utils.multiaddr.codecs as codecs  # these are imported when an address is read

for codec in pkgutil.iter_modules(codecs.__path__, codecs.__name__ + "."):
    importlib.import_module(codec.name)
homes = packages_distributions()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
print(*sorted({f"{home}=={version(home)}" for name in sys.modules for home in homes.get(name, ())}))
"""


def test_nothing_of_training_is_imported_and_the_list_for_servers_is_complete() -> None:
    """In a process of its own; the list is what is installed, without further dependencies, on a small server."""
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    modules, needed = (set(line.split()) for line in ended.stdout.splitlines())
    assert "hivemind" in modules
    assert not modules & HEAVY
    listed = requirements("bootstrap/requirements.txt")
    not_ours = {each for each in needed if each.startswith(("p2ptrain==", "setuptools=="))}
    assert {each.partition("==")[0] for each in needed - not_ours} <= {each.partition("==")[0] for each in listed}
    assert listed <= requirements("constraints.txt")


def requirements(file: str) -> set[str]:
    lines = (REPOSITORY / file).read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_where_hivemind_is_loaded_as_it_is_it_stays_so() -> None:
    from p2ptrain.lean import spare_torch
    from p2ptrain.swarm import node

    before = sys.modules["hivemind"]
    spare_torch()
    assert sys.modules["hivemind"] is before
    assert before.__file__ is not None
    assert node.P2P is before.p2p.P2P


# Remembering ---------------------------------------------------------------------------------------------------------


class Swarm:
    """Peers that say that they are reachable at as many addresses as they like."""

    peer_id = SigningKey.generate().peer_id

    def __init__(self, places: int) -> None:
        self.places, self.node, self.asked = places, self, 0

    def addresses_of(self, peer: PeerId) -> list[str]:
        self.asked += 1
        useless = [
            f"/ip4/192.0.2.1/tcp/1/p2p/{self.peer_id}/p2p-circuit/p2p/{peer}",
            f"/dns4/{300 * 'a'}/tcp/1/p2p/{peer}",
            f"/dns4/a,b/tcp/1/p2p/{peer}",
            f"/unix/tmp/socket/p2p/{peer}",
        ]
        return [*useless, *(f"/ip4/192.0.2.2/tcp/{port}/p2p/{peer}" for port in range(1, self.places + 1))]

    def run(self, result: Any, _timeout: float) -> Any:
        return result


def look(*peers: PeerId) -> Look:
    return Look(monotonic(), frozenset(peers))


def peers(count: int) -> list[PeerId]:
    return [SigningKey.generate().peer_id for _ in range(count)]


def seen(regulars: Regulars, swarm: Swarm, *there: PeerId) -> None:
    regulars.seen(swarm, look(*there))  # type: ignore[arg-type]


def test_who_stays_is_remembered_and_who_passes_by_is_not(tmp_path: Path) -> None:
    regulars, swarm, (stays, passes) = Regulars(tmp_path), Swarm(1), peers(2)
    seen(regulars, swarm, stays, passes)
    assert regulars.addresses == ()
    seen(regulars, swarm, stays)
    assert Regulars(tmp_path).addresses == (f"/ip4/192.0.2.2/tcp/1/p2p/{stays}",)
    regulars.seen(swarm, Look(monotonic(), problem="p2pd is gone"))  # type: ignore[arg-type]
    seen(regulars, swarm)
    assert len(Regulars(tmp_path).addresses) == 1  # nobody is there now, but one was


def test_a_crowd_does_not_push_out_who_was_there_before(tmp_path: Path) -> None:
    regulars, swarm, crowd = Regulars(tmp_path), Swarm(1000), peers(200)
    old = peers(3)
    for _ in range(2):
        seen(regulars, swarm, *old)
    for _ in range(3):
        seen(regulars, swarm, *old, *crowd)
    remembered = Contact.read(tmp_path).peers
    assert len(remembered) == REMEMBERED_ADDRESSES
    assert {address[-52:] for address in remembered[: 3 * ADDRESSES_OF_ONE]} == set(old)
    assert swarm.asked <= REMEMBERED_ADDRESSES


def test_the_file_is_written_only_when_something_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    regulars, swarm, there = Regulars(tmp_path), Swarm(2), peers(2)
    for _ in range(2):
        seen(regulars, swarm, *there)
    monkeypatch.setattr(Contact, "write", lambda *_: pytest.fail("nothing is new"))
    seen(regulars, swarm, *there)


# Being watched -------------------------------------------------------------------------------------------------------


def test_a_look_is_good_until_it_is_old() -> None:
    assert Look(100.0).verdict(100.0 + STALE_SECONDS) == ""
    assert "not checked itself for 31 s" in Look(100.0).verdict(131.0)
    assert Look(100.0, problem="p2pd is gone").verdict(100.0) == "p2pd is gone"


class Watched(NodeCollector):
    def __init__(self) -> None:
        self.look, self.daemon = (lambda: Look(monotonic(), problem="p2pd is gone")), 1

    def collect(self) -> Iterator[Any]:
        yield from ()


def test_a_supervisor_is_told_what_is_wrong() -> None:
    with MetricsServer(("127.0.0.1", 0), Watched()) as server:
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz")
        with answer.value as error:
            assert (error.code, error.read()) == (503, b"p2pd is gone\n")
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/../secret")
        with answer.value as error:
            assert error.code == 404
        with pytest.raises(NetworkError, match="can't serve metrics"):
            MetricsServer(("127.0.0.1", server.port), Watched())


def test_addresses_of_metrics() -> None:
    assert parse_address("127.0.0.1:9090") == ("127.0.0.1", 9090)
    assert parse_address("[::1]:0") == ("::1", 0)
    for wrong in ("9090", ":9090", "127.0.0.1", "127.0.0.1:", "localhost:http", "::1:9090", "127.0.0.1:65536"):
        with pytest.raises(UsageError, match="can't serve metrics"):
            parse_address(wrong)


# The log -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("p2ptrain")
    before, level = list(logger.handlers), logger.level
    yield logger
    for handler in set(logger.handlers) - set(before):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)


def test_the_log_is_rotated(tmp_path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LOG_BYTES", 200)
    bootstrap._log_to(tmp_path / "node.log", json_lines=False)
    for number in range(50):
        bootstrap.log.info("line %d", number)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["node.log", *(f"node.log.{number}" for number in range(1, bootstrap.OLD_LOGS + 1))]
    assert "line 49" in (tmp_path / "node.log").read_text()


def test_a_log_that_cant_be_written_is_said_so(tmp_path: Path, logger: logging.Logger) -> None:
    with pytest.raises(StorageError, match="can't write the log"):
        bootstrap._log_to(tmp_path / "nowhere" / "node.log", json_lines=False)
