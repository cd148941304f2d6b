"""The three ways into a run, with real swarms of one or two on loopback."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from p2ptrain.errors import IdentityError, InviteError, NetworkError, P2PTrainError, StorageError
from p2ptrain.run import NO_DIGEST, Digest, Genesis, SigningKey, digest_of
from p2ptrain.state import Ledger, Limits, RunFolder, serve
from p2ptrain.state import fetch as fetching
from p2ptrain.state import run as module
from p2ptrain.state.contact import REMEMBERED_ADDRESSES, Contact
from p2ptrain.state.home import default_home
from p2ptrain.state.own_key import open_identity
from p2ptrain.state.run import Run
from p2ptrain.state.schema import FORMAT
from p2ptrain.swarm import Identity, Invite, NodeConfig
from tests.unit.run.specs import toml_with
from tests.unit.state.samples import KEYS, SPEC, flip_a_bit, overwrite
from tests.unit.swarm.people import presence_of

LOOPBACK = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",))
BASE = digest_of(b"base")
NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/" + KEYS[5].peer_id


@pytest.fixture(scope="module")
def founder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run with a genesis, whose records are served."""
    with Run.found(SPEC, config=LOOPBACK, home=tmp_path_factory.mktemp("founder")) as run:
        run.establish(BASE, NO_DIGEST)
        run.swarm.run(serve(run.swarm.rpc, run.blobs))
        yield run


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_FOR_PEERS", 0.2)
    monkeypatch.setattr(fetching, "RETRY_SECONDS", 0.05)


def leads_to(founder: Run, run: Digest | None) -> Invite:
    return Invite(run, founder.invite().addresses)


# Founding ----------------------------------------------------------------------------------------------------------


def test_a_run_that_is_founded_has_a_folder_once_it_has_a_genesis(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(toml_with())
    with Run.found(str(tmp_path / "run.toml"), config=LOOPBACK, home=tmp_path) as run:
        assert run.founding
        assert run.spec == SPEC
        with pytest.raises(StorageError, match="no genesis yet"):
            _ = run.folder
        assert not (tmp_path / "runs").exists()
        run.establish(BASE, digest_of(b"held out"))
        genesis = run.folder.genesis.check_signature()
        assert (genesis.base, genesis.held_out, genesis.spec) == (BASE, digest_of(b"held out"), SPEC.digest)
        assert genesis.author == run.swarm.peer_id
        assert abs(genesis.founded - time.time()) < 60
        announcement = run.announcement()
        assert announcement is not None
        assert announcement.check().run == run.id
        assert run.id == genesis.digest
        assert run.folder.path.is_relative_to(tmp_path)
        assert run.blobs.read(run.id) == genesis.encoded
        assert run.blobs.read(SPEC.digest) == SPEC.canonical()
        run.establish(digest_of(b"another base"), NO_DIGEST)
        assert run.folder.genesis == genesis, "once"


def test_its_invite_leads_to_this_peer(founder: Run) -> None:
    invite = Invite.parse(str(founder.invite()))
    assert invite.run == founder.id
    assert invite.addresses
    assert all(address.endswith(founder.swarm.peer_id) for address in invite.addresses)


def test_an_identity_that_is_to_be_reached_is_not_ones_own(tmp_path: Path) -> None:
    first = open_identity(tmp_path, None, LOOPBACK)
    first.close()
    second = open_identity(tmp_path, None, NodeConfig(bootstrap=(f"/ip4/127.0.0.1/tcp/1/p2p/{first.peer_id}",)))
    assert second.peer_id != first.peer_id
    second.close()


def test_the_default_home_is_the_users_own() -> None:
    assert default_home().is_absolute()
    assert default_home().name == "p2ptrain"


def test_a_user_without_a_home_is_told_to_name_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("P2PTRAIN_HOME", raising=False)
    monkeypatch.setattr(platformdirs, "user_data_path", none)
    with pytest.raises(StorageError, match="no folder for identities") as refused:
        default_home()
    assert "--home" in refused.value.next_step


# Joining -----------------------------------------------------------------------------------------------------------


def test_who_joins_has_the_founders_genesis_and_spec(founder: Run, tmp_path: Path) -> None:
    with Run.join(str(founder.invite()), config=LOOPBACK, home=tmp_path) as run:
        assert not run.founding
        assert (run.id, run.spec, run.folder.genesis) == (founder.id, SPEC, founder.folder.genesis)
        assert run.folder.path.is_relative_to(tmp_path)
        assert run.blobs.read(run.id) == founder.folder.genesis.encoded, "and hands them on"


def refusal_to_join(invite: Invite, home: Path) -> P2PTrainError:
    with pytest.raises(P2PTrainError) as refusal:
        Run.join(invite, config=LOOPBACK, home=home)
    assert refusal.value.next_step
    assert not (home / "runs").exists()
    if (home / "identities").exists():
        Identity.open(home / "identities" / "1.key").close()  # nobody holds it any more
    return refusal.value


def test_an_invite_that_names_no_run_is_refused_before_anything_starts(founder: Run, tmp_path: Path) -> None:
    refusal = refusal_to_join(leads_to(founder, None), tmp_path)
    assert isinstance(refusal, InviteError)
    assert "names no run" in refusal.why
    assert not (tmp_path / "identities").exists()


def test_a_run_that_nobody_there_knows_is_refused(founder: Run, tmp_path: Path) -> None:
    refusal = refusal_to_join(leads_to(founder, digest_of(b"no such run")), tmp_path)
    assert isinstance(refusal, NetworkError)
    assert refusal.what == f"nobody in this swarm knows the run {digest_of(b'no such run').hex()[:8]}"
    assert "not here" in refusal.why


def genesis_with(spec: bytes, signer: SigningKey = KEYS[0]) -> Genesis:
    unsigned = Genesis(
        author=KEYS[0].peer_id,
        spec=digest_of(spec),
        base=BASE,
        held_out=NO_DIGEST,
        nonce=bytes(16),
        software="tests",
        founded=0,
        seal=NO_DIGEST,
    )
    if signer is KEYS[0]:
        return unsigned.signed(signer)
    return Genesis(**(unsigned.model_dump() | {"signature": signer.sign(unsigned.signing_bytes)}))


NEWER = SPEC.canonical().replace(b'"alpha"', b'"aleph"')


@pytest.mark.parametrize(
    ("genesis", "why"),
    [
        (b"nothing that could be a record", "a genesis/1 record can't be read"),
        (genesis_with(SPEC.canonical()).encoded.replace(b"genesis/1", b"genesis/2"), "expected a genesis/1 record"),
        (genesis_with(SPEC.canonical(), KEYS[1]).encoded, "not signed by its author"),
        (genesis_with(NEWER).encoded, "the run's spec can't be read by this version"),
    ],
    ids=["garbage", "another format", "forged", "a newer spec"],
)
def test_a_run_whose_records_can_not_be_trusted_is_refused(
    founder: Run, tmp_path: Path, genesis: bytes, why: str
) -> None:
    run = founder.blobs.hold(genesis, "record")
    founder.blobs.hold(NEWER, "record")
    refusal = refusal_to_join(leads_to(founder, run), tmp_path)
    assert isinstance(refusal, NetworkError)
    assert refusal.what == f"the run {run.hex()[:8]} can't be joined"
    assert why in refusal.why


# Resuming ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path: Path) -> Run:
    """A run of one peer that has stopped."""
    with Run.found(SPEC, config=LOOPBACK, home=tmp_path) as run:
        run.establish(BASE, NO_DIGEST)
    return run


def test_a_peer_comes_back_as_the_same_one_even_if_nobody_else_is_there(
    stopped: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("p2ptrain"), "propagate", True)
    Identity.open(tmp_path / "identities" / "1.key").close()
    Contact.read(stopped.folder.path).met([NOBODY]).write(stopped.folder.path)
    with Run.resume(stopped.folder.path, config=LOOPBACK) as run:
        assert not run.founding
        assert (run.id, run.spec, run.swarm.peer_id) == (stopped.id, SPEC, stopped.swarm.peer_id)
        assert "going on alone" in caplog.text
        run.remember_peers([])
        assert run.remembered_addresses() == [NOBODY], "nobody seen: the old ones are kept"
        seen = [presence_of(KEYS[0], addresses=(f"/ip4/127.0.0.1/tcp/{port}",)) for port in range(50, 100)]
        run.remember_peers(seen[:1])
        assert run.remembered_addresses() == [*seen[0].addresses, NOBODY], "the latest first"
        run.remember_peers(seen)
        assert len(run.remembered_addresses()) == REMEMBERED_ADDRESSES


def test_a_peer_comes_back_at_the_same_port_if_it_is_free(stopped: Run) -> None:
    def port_of(run: Run) -> str:
        return run.invite().addresses[0].split("/")[4]

    with Run.resume(stopped.folder.path, config=LOOPBACK) as run:
        port = port_of(run)
    with Run.resume(stopped.folder.path, config=LOOPBACK) as run:
        assert port_of(run) == port
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int(port)))
        taken.listen()
        with Run.resume(stopped.folder.path, config=LOOPBACK) as run:
            assert port_of(run) != port


def test_a_start_that_fails_late_lets_go_of_swarm_identity_and_folder(
    stopped: Run, founder: Run, tmp_path: Path
) -> None:
    name = "a name that is much too long " * 10
    with pytest.raises(ValueError, match="a name has at most"):
        Run.resume(stopped.folder.path, config=LOOPBACK, name=name)
    with Run.resume(stopped.folder.path, config=LOOPBACK) as run:
        assert run.swarm.peer_id == stopped.swarm.peer_id
    for start in (lambda **more: Run.join(founder.invite(), **more), lambda **more: Run.found(SPEC, **more)):
        with pytest.raises(ValueError, match="a name has at most"):
            start(config=LOOPBACK, home=tmp_path / "new", name=name)
        Identity.open(tmp_path / "new" / "identities" / "1.key").close()
    for folder in (tmp_path / "new" / "runs").glob("*/*"):
        RunFolder.open(folder).close()


def comes_back(stopped: Run, **options: Any) -> Contact:
    """Resume, as the same peer in the same run; what the folder knows of how to get back then."""
    with Run.resume(stopped.folder.path, config=LOOPBACK, **options) as run:
        assert (run.id, run.swarm.peer_id) == (stopped.id, stopped.swarm.peer_id)
        return run.folder.contact


def test_how_to_get_back_is_noted_from_the_beginning(stopped: Run, tmp_path: Path) -> None:
    noted = stopped.folder.contact
    assert noted == comes_back(stopped)
    assert (noted.peer, noted.identity) == (stopped.swarm.peer_id, str(tmp_path / "identities" / "1.key"))
    assert noted.port > 0


@pytest.mark.parametrize("harm", [Path.unlink, overwrite])
def test_the_identity_is_found_by_the_peers_id_when_nothing_else_is_known(
    stopped: Run, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """The right one of several."""
    identities = tmp_path / "identities"
    (identities / "1.key").rename(identities / "3.key")
    for name in ("1.key", "2.key"):
        Identity.open(identities / name).close()
    harm(stopped.folder.path / "contact.json")
    again = comes_back(stopped)
    assert (again.peer, again.identity) == (stopped.swarm.peer_id, str(identities / "3.key"))


def test_a_home_that_was_moved_is_found_where_it_is_now(stopped: Run, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    home.mkdir()
    for name in ("identities", "runs"):
        (tmp_path / name).rename(home / name)
    with Run.resume(home / stopped.folder.path.relative_to(tmp_path), config=LOOPBACK) as run:
        assert run.swarm.peer_id == stopped.swarm.peer_id
        assert run.folder.contact.identity == str(home / "identities" / "1.key")


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("contact", [True, False])
def test_without_its_key_a_peer_does_not_come_back_as_somebody_else(
    stopped: Run, tmp_path: Path, others: int, contact: bool
) -> None:
    identities = tmp_path / "identities"
    (identities / "1.key").unlink()
    for number in range(others):
        Identity.open(identities / f"{number + 2}.key").close()
    if not contact:
        (stopped.folder.path / "contact.json").unlink()
    before = sorted(identities.glob("*.key"))
    for _ in range(2):  # not "in use" the second time
        with pytest.raises(IdentityError) as refusal:
            Run.resume(stopped.folder.path, config=LOOPBACK)
        assert stopped.swarm.peer_id[-6:] in refusal.value.what
        assert "--identity" in refusal.value.next_step
    assert sorted(identities.glob("*.key")) == before, "no new key is made"


def test_a_key_that_was_moved_can_be_named(stopped: Run, tmp_path: Path) -> None:
    moved = (tmp_path / "identities" / "1.key").rename(tmp_path / "me.key")
    assert comes_back(stopped, identity=moved).identity == str(moved)
    assert comes_back(stopped).identity == str(moved), "once is enough"


def test_a_peer_whose_ledger_is_damaged_still_knows_who_it_is_and_where_others_are(stopped: Run) -> None:
    path = stopped.folder.path
    Contact.read(path).met([NOBODY]).write(path)
    before = Contact.read(path)
    overwrite(path / "ledger.sqlite")
    assert comes_back(stopped) == before
    assert (path / "ledger.sqlite.damaged-1").exists()
    assert before.peers == (NOBODY,)


def test_what_the_volunteer_allows_holds_however_a_run_begins(founder: Run, tmp_path: Path) -> None:
    limits = Limits(disk=10**9, up=1e6, down=None)
    with Run.found(SPEC, config=LOOPBACK, home=tmp_path / "founder", limits=limits) as run:
        run.establish(BASE, NO_DIGEST)
        assert run.limits == limits
    with Run.resume(run.folder.path, config=LOOPBACK, limits=limits) as again:
        assert again.limits == limits
    with Run.resume(run.folder.path, config=LOOPBACK) as again:
        assert again.limits == Limits(), "they are of one start, not of the folder"
    with Run.join(founder.invite(), config=LOOPBACK, home=tmp_path / "joiner", limits=limits) as joined:
        assert joined.limits == limits
        assert set(joined.folder.contact.peers) == set(founder.invite().addresses)


def test_an_identity_in_use_is_told_and_leaves_the_folder_free(stopped: Run) -> None:
    taken = Identity.open(stopped.swarm.identity.path)
    for _ in range(2):
        with pytest.raises(IdentityError, match="is in use"):
            Run.resume(stopped.folder.path, config=LOOPBACK)
    taken.close()


def refusal_to_resume(path: Path) -> StorageError:
    with pytest.raises(StorageError) as refusal:
        Run.resume(path, config=LOOPBACK)
    assert refusal.value.what
    assert refusal.value.next_step
    return refusal.value


def test_what_is_no_run_folder_is_not_resumed(tmp_path: Path) -> None:
    assert refusal_to_resume(tmp_path).what == f"{tmp_path} is not a run folder"


def test_a_folder_with_another_runs_records_is_not_resumed(run_folder: Path, founder: Run) -> None:
    (run_folder / "genesis").write_bytes(founder.folder.genesis.encoded)
    (run_folder / "spec.json").write_bytes(SPEC.canonical().replace(b'"test"', b'"text"'))
    assert "spec.json is not the run's spec" in refusal_to_resume(run_folder).why


def test_a_damaged_folder_is_not_resumed(run_folder: Path) -> None:
    flip_a_bit(run_folder / "spec.json")
    assert refusal_to_resume(run_folder).what == f"the run folder {run_folder} is damaged"


def test_a_folder_of_a_newer_format_is_not_resumed(run_folder: Path) -> None:
    ledger = Ledger(run_folder / "ledger.sqlite")
    ledger._db._db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    ledger.close()
    refusal = refusal_to_resume(run_folder)
    assert f"has storage format {FORMAT + 1}" in refusal.what
    assert refusal.next_step == "update p2ptrain"
