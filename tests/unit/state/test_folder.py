"""A run folder is complete, of one run, and one process's own; anything else is refused with a reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from p2ptrain.errors import StorageError
from p2ptrain.run import NO_DIGEST, Genesis, SigningKey, digest_of
from p2ptrain.state import DamagedError, RunFolder
from p2ptrain.state.contact import Contact
from p2ptrain.state.folder import find_folder
from tests.unit.run.specs import spec_with
from tests.unit.state.samples import KEYS, SPEC, empty, flip_a_bit, overwrite, truncate

ME, HEAD = KEYS[0].peer_id, digest_of(b"somewhere")


def test_a_folder_holds_its_genesis_spec_and_ledger(tmp_path: Path, genesis: Genesis) -> None:
    folder = RunFolder.create(tmp_path, genesis, SPEC, ME)
    folder.ledger.set_head(HEAD)
    folder.close()
    again = RunFolder.open(folder.path)
    assert (again.genesis, again.spec, again.run) == (genesis, SPEC, genesis.digest)
    assert again.ledger.head == HEAD
    again.close()


def test_each_run_and_each_peer_has_a_place_of_its_own(tmp_path: Path) -> None:
    places = {
        RunFolder.place(tmp_path, "test", digest_of(run), key.peer_id)
        for run in (b"one run", b"another run")
        for key in KEYS[:3]
    }
    assert len(places) == 6
    assert all(path.is_relative_to(tmp_path / "runs") and "test-" in path.parent.name for path in places)


def test_creating_it_again_opens_it(run_folder: Path, tmp_path: Path, genesis: Genesis) -> None:
    folder = RunFolder.open(run_folder)
    folder.ledger.set_head(HEAD)
    folder.close()
    again = RunFolder.create(tmp_path, genesis, SPEC, ME)
    assert again.path == run_folder
    assert again.ledger.head == HEAD
    again.close()


def test_a_folder_that_was_left_unfinished_is_completed(run_folder: Path, tmp_path: Path, genesis: Genesis) -> None:
    (run_folder / "genesis").unlink()
    (run_folder / "spec.json").write_bytes(b"half of")
    RunFolder.create(tmp_path, genesis, SPEC, ME).close()
    RunFolder.open(run_folder).close()


# One process -------------------------------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused_until_it_is_closed(run_folder: Path) -> None:
    first = RunFolder.open(run_folder)
    with pytest.raises(StorageError, match="is in use") as told:
        RunFolder.open(run_folder)
    assert str(run_folder) in told.value.what
    assert told.value.next_step == "stop that one first"
    first.close()
    RunFolder.open(run_folder).close()


def test_it_can_be_read_beside_a_running_peer(run_folder: Path) -> None:
    running = RunFolder.open(run_folder)
    running.ledger.set_head(HEAD)
    reader = RunFolder.open(run_folder, lock=False)
    assert reader.ledger.head == HEAD
    reader.close()
    with pytest.raises(StorageError, match="is in use"):
        RunFolder.open(run_folder)
    running.close()


# What is not a run folder, or not this run's --------------------------------------------------------------------------


def refusal_of(path: Path) -> StorageError:
    with pytest.raises(StorageError) as refusal:
        RunFolder.open(path)
    assert str(path) in refusal.value.what
    assert refusal.value.next_step
    assert refusal.value.exit_code == 8
    return refusal.value


def test_another_folder_is_told_apart(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path)
    assert refusal.what.endswith("is not a run folder")
    assert "no genesis" in refusal.why
    assert list(tmp_path.iterdir()) == [], "and is left as it is"


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, empty, overwrite])
@pytest.mark.parametrize("name", ["genesis", "spec.json"])
def test_a_damaged_record_is_noticed(run_folder: Path, name: str, harm: Callable[[Path], None]) -> None:
    harm(run_folder / name)
    refusal = refusal_of(run_folder)
    assert refusal.what.endswith("is damaged")
    assert refusal.next_step == "join the run again with an invite: that mends it"


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, empty, overwrite, Path.unlink])
@pytest.mark.parametrize("name", ["genesis", "spec.json"])
def test_joining_again_mends_a_damaged_record_and_keeps_the_rest(
    run_folder: Path, tmp_path: Path, genesis: Genesis, name: str, harm: Callable[[Path], None]
) -> None:
    folder = RunFolder.open(run_folder)
    folder.ledger.set_head(HEAD)
    folder.close()
    whole = (run_folder / name).read_bytes()
    harm(run_folder / name)
    again = RunFolder.create(tmp_path, genesis, SPEC, ME)
    assert (again.path, again.genesis, again.spec) == (run_folder, genesis, SPEC)
    assert again.ledger.head == HEAD
    assert (run_folder / name).read_bytes() == whole
    again.close()


def test_a_missing_spec_is_noticed(run_folder: Path) -> None:
    (run_folder / "spec.json").unlink()
    assert "No such file" in refusal_of(run_folder).why


def test_the_spec_of_another_run_is_refused(run_folder: Path) -> None:
    (run_folder / "spec.json").write_bytes(spec_with({"run.name": "other"}).canonical())
    assert "its digest differs from the genesis" in refusal_of(run_folder).why


def test_a_genesis_that_its_founder_did_not_sign_is_refused(run_folder: Path, genesis: Genesis) -> None:
    forged = genesis.model_copy(update={"author": KEYS[1].peer_id})
    (run_folder / "genesis").write_bytes(Genesis(**forged.model_dump()).encoded)
    assert "not signed by its author" in refusal_of(run_folder).why


def test_a_genesis_of_another_format_is_refused(run_folder: Path, genesis: Genesis) -> None:
    (run_folder / "genesis").write_bytes(genesis.encoded.replace(b"genesis/1", b"genesis/2"))
    refusal = refusal_of(run_folder)
    assert "genesis/1" in refusal.why
    assert "genesis/2" in refusal.why


# The ledger --------------------------------------------------------------------------------------------------------


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("p2ptrain"), "propagate", True)
    return caplog


def test_a_damaged_ledger_is_put_aside_under_a_name_of_its_own_and_an_empty_one_takes_its_place(
    run_folder: Path, warnings: pytest.LogCaptureFixture
) -> None:
    ledger = run_folder / "ledger.sqlite"
    for number in (1, 2, 3):
        folder = RunFolder.open(run_folder)
        assert folder.ledger.head == NO_DIGEST
        folder.ledger.set_head(HEAD)
        folder.close()
        ledger.write_bytes(damaged := b"damaged, and this is the text of number %d" % number)
        warnings.clear()
        RunFolder.open(run_folder).close()
        aside = run_folder / f"ledger.sqlite.damaged-{number}"
        assert aside.read_bytes() == damaged, "for whoever wants to look at it"
        assert f"{ledger} is damaged (file is not a database)" in warnings.text
        assert aside.name in warnings.text


def test_what_an_old_write_ahead_log_holds_does_not_get_into_the_ledger_that_takes_its_place(run_folder: Path) -> None:
    folder = RunFolder.open(run_folder)
    folder.ledger.set_head(HEAD)
    old = (run_folder / "ledger.sqlite-wal").read_bytes()
    folder.close()
    assert old
    overwrite(run_folder / "ledger.sqlite")
    (run_folder / "ledger.sqlite-wal").write_bytes(old)  # as after a power loss
    again = RunFolder.open(run_folder)
    assert again.ledger.head == NO_DIGEST
    again.close()


def test_a_damaged_ledger_is_left_alone_by_those_who_only_read(run_folder: Path) -> None:
    overwrite(run_folder / "ledger.sqlite")
    before = (run_folder / "ledger.sqlite").read_bytes()
    with pytest.raises(DamagedError, match=r"ledger\.sqlite can't be used") as told:
        RunFolder.open(run_folder, lock=False)
    assert told.value.why == "file is not a database"
    assert told.value.next_step.startswith("start the peer again")
    assert (run_folder / "ledger.sqlite").read_bytes() == before
    assert not list(run_folder.glob("*.damaged-*"))


def test_a_ledger_that_is_gone_is_warned_about_if_there_was_one(
    run_folder: Path, warnings: pytest.LogCaptureFixture
) -> None:
    (run_folder / "ledger.sqlite").unlink()
    RunFolder.open(run_folder).close()
    assert warnings.text == "", "nothing was there yet"
    (run_folder / "vectors" / "some.safetensors").touch()
    (run_folder / "ledger.sqlite").unlink()
    RunFolder.open(run_folder).close()
    assert "ledger.sqlite is missing" in warnings.text


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    genesis = Genesis.found(SPEC, digest_of(b"base"), NO_DIGEST, "tests", KEYS[0])
    home = tmp_path / "home"
    home.touch()
    with pytest.raises(StorageError, match="can't make the run folder") as told:
        RunFolder.create(home, genesis, SPEC, ME)
    assert "--home" in told.value.next_step


# By name -------------------------------------------------------------------------------------------------------------


def folders(home: Path, *founders_and_peers: tuple[SigningKey, SigningKey], name: str = "tiny") -> list[Path]:
    """Folders of runs of one name, one for each (founder, peer)."""
    made = []
    for founder, peer in founders_and_peers:
        spec = spec_with({"run.name": name})
        genesis = Genesis.found(spec, NO_DIGEST, NO_DIGEST, "tests", founder)
        folder = RunFolder.create(home, genesis, spec, peer.peer_id)
        Contact(peer=peer.peer_id).write(folder.path)
        folder.close()
        made.append(folder.path)
    return made


def test_a_run_s_folder_is_found_by_its_name_or_id_or_path(tmp_path: Path) -> None:
    [path] = folders(tmp_path, (KEYS[0], KEYS[0]))
    folders(tmp_path, (KEYS[0], KEYS[0]), name="other")
    with RunFolder.open(path) as folder:
        run = folder.run.hex()
    for given in (Path("tiny"), Path(run[:6]), Path(run[:8]), Path(run[:20]), Path(run), path):
        assert find_folder(given, tmp_path) == path
    nowhere = tmp_path / "no/such/folder"
    assert find_folder(nowhere, tmp_path) == nowhere, "who opens it says what is wrong"


def test_a_part_of_a_name_or_too_few_digits_of_an_id_name_no_run(tmp_path: Path) -> None:
    [path] = folders(tmp_path, (KEYS[0], KEYS[0]), name="tiny-one")
    with RunFolder.open(path) as folder:
        run = folder.run.hex()
    for given in ("tiny", "tiny-one-x", run[:5], run[:8] + "x", run[:-1] + "x"):
        with pytest.raises(StorageError, match=f"no run called '{given}'"):
            find_folder(Path(given), tmp_path)
    assert find_folder(Path("tiny-one"), tmp_path) == path


def test_of_several_peers_of_a_run_the_owner_s_folder_is_meant(tmp_path: Path) -> None:
    spec = spec_with({"run.name": "tiny"})
    genesis = Genesis.found(spec, NO_DIGEST, NO_DIGEST, "tests", KEYS[1])
    made = []
    for key in KEYS[:3]:
        folder = RunFolder.create(tmp_path, genesis, spec, key.peer_id)
        Contact(peer=key.peer_id).write(folder.path)
        folder.close()
        made.append(folder.path)
    assert find_folder(Path("tiny"), tmp_path) == made[1]


def test_a_name_of_two_runs_or_of_none_is_told_with_what_there_is(tmp_path: Path) -> None:
    made = folders(tmp_path, (KEYS[0], KEYS[0]), (KEYS[1], KEYS[1]))
    with pytest.raises(StorageError, match="2 run folders go by 'tiny'") as refusal:
        find_folder(Path("tiny"), tmp_path)
    assert all(str(path) in refusal.value.why for path in made)
    with pytest.raises(StorageError, match="no run called 'elsewhere'"):
        find_folder(Path("elsewhere"), tmp_path)
