"""Who is in a swarm for a moment leaves nothing behind, and gets there by all that is known of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2ptrain.commands.visiting import visit
from p2ptrain.errors import NetworkError
from p2ptrain.run import NO_DIGEST, Genesis
from p2ptrain.state import RunFolder
from p2ptrain.state.contact import Contact
from p2ptrain.state.passing import passing
from p2ptrain.swarm import Identity, Invite, NodeConfig, Swarm
from p2ptrain.swarm.config import NOWHERE
from p2ptrain.swarm.door import Door
from tests.unit.state.samples import KEYS, SPEC

ME, OTHER = (key.peer_id for key in KEYS[:2])
HERE, MINE, THEIRS = (
    f"/ip4/127.0.0.1/tcp/31337/p2p/{ME}",
    f"/ip4/192.0.2.7/tcp/31337/p2p/{ME}",
    f"/ip4/192.0.2.8/tcp/1/p2p/{OTHER}",
)

Started = list[tuple[Path, NodeConfig]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Key files and configurations of the nodes that would have started."""
    made: Started = []

    @contextlib.contextmanager
    def start(identity: Identity, config: NodeConfig, door: Door) -> Iterator[SimpleNamespace]:
        assert identity.path.is_file()
        made.append((identity.path, config))
        yield SimpleNamespace()

    monkeypatch.setattr(Swarm, "start", start)
    return made


def test_who_passes_is_hidden_and_its_key_is_gone_afterwards(started: Started) -> None:
    invite = Invite(NO_DIGEST, (THEIRS,))
    for listen in ((NOWHERE,), ("/ip4/0.0.0.0/tcp/0",)):
        with passing(invite, listen):
            pass
        path, config = started[-1]
        assert not path.exists()
        assert (config.passing, config.listen, config.bootstrap) == (True, listen, (THEIRS,))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    genesis = Genesis.found(SPEC, NO_DIGEST, NO_DIGEST, "tests", KEYS[0])
    with RunFolder.create(tmp_path, genesis, SPEC, ME) as made:
        yield made


def test_a_visitor_tries_the_folder_s_own_peer_wherever_it_was_and_then_the_others(
    folder: RunFolder, started: Started
) -> None:
    Contact(peer=ME, port=31337, addresses=(MINE,), peers=(THEIRS, MINE)).write(folder.path)
    with visit(folder, KEYS[0]):
        pass
    [(_, config)] = started
    assert (config.passing, config.bootstrap) == (True, (HERE, MINE, THEIRS))


def test_a_folder_that_knows_nobody_can_t_be_visited(folder: RunFolder, started: Started) -> None:
    with pytest.raises(NetworkError, match="knows no peer of the run"), visit(folder, KEYS[0]):
        pass
    assert not started
