"""One key file is one peer: made on first use, used by one process at a time, free again when that ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2ptrain.errors import IdentityError, StorageError
from p2ptrain.run import SigningKey
from p2ptrain.swarm import Identity, identity

HOLD = """
import sys
from pathlib import Path
from p2ptrain.swarm import Identity
mine = Identity.open(Path(sys.argv[1]))
print(mine.peer_id, flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process_using(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has opened the identity, and the peer id it found there."""
    arguments = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_an_identity_is_made_on_first_use_for_its_owners_eyes_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "1.key"
    mine = Identity.open(path)
    assert path.stat().st_mode & 0o777 == 0o400
    assert path.parent.stat().st_mode & 0o077 == 0
    assert SigningKey.from_file_bytes(path.read_bytes()).peer_id == mine.peer_id == mine.key.peer_id
    mine.close()


def test_the_same_file_is_the_same_peer(tmp_path: Path) -> None:
    first = Identity.open(tmp_path / "1.key")
    first.close()
    again = Identity.open(tmp_path / "1.key")
    again.close()
    assert again.peer_id == first.peer_id


def test_two_files_are_two_peers(tmp_path: Path) -> None:
    left, right = Identity.open(tmp_path / "1.key"), Identity.open(tmp_path / "2.key")
    assert left.peer_id != right.peer_id
    left.close()
    right.close()


def test_an_identity_in_use_is_refused_within_one_process_too(tmp_path: Path) -> None:
    mine = Identity.open(tmp_path / "1.key")
    with pytest.raises(IdentityError, match=r"1\.key is in use"):
        Identity.open(tmp_path / "1.key")
    mine.close()
    Identity.open(tmp_path / "1.key").close()


def test_an_identity_belongs_to_one_process_until_that_ends_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "1.key"
    with another_process_using(path) as (process, peer_id):
        with pytest.raises(IdentityError, match=r"1\.key is in use") as refusal:
            Identity.open(path)
        assert "another process" in refusal.value.why
        assert "--identity" in refusal.value.next_step
        assert refusal.value.exit_code == 4

        other = Identity.open_next_free(tmp_path)
        assert other.path == tmp_path / "2.key"
        assert other.peer_id != peer_id
        other.close()

        process.kill()
        process.wait()
        mine = Identity.open(path)
        assert mine.peer_id == peer_id
        mine.close()


def test_the_next_free_identity_fills_the_first_gap(tmp_path: Path) -> None:
    taken = [Identity.open_next_free(tmp_path) for _ in range(3)]
    assert [mine.path.name for mine in taken] == ["1.key", "2.key", "3.key"]
    taken[1].close()
    again = Identity.open_next_free(tmp_path)
    assert again.peer_id == taken[1].peer_id
    for mine in (taken[0], taken[2], again):
        mine.close()


def test_a_file_is_found_by_how_its_peers_id_ends_also_while_it_is_in_use(tmp_path: Path) -> None:
    made = [Identity.open_next_free(tmp_path) for _ in range(3)]
    for mine in made:
        assert Identity.find(tmp_path, mine.peer_id) == Identity.find(tmp_path, mine.peer_id[-6:]) == mine.path
        mine.close()
    with pytest.raises(IdentityError, match="belongs to the peer …nobody") as refusal:
        Identity.find(tmp_path, "nobody")
    assert "--identity" in refusal.value.next_step
    with pytest.raises(IdentityError):
        Identity.find(tmp_path / "nowhere", "nobody")
    assert len(list(tmp_path.glob("*.key"))) == 3, "none is made for it"


def test_when_every_identity_is_in_use_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MAX_LOCAL_PEERS", 1)
    mine = Identity.open_next_free(tmp_path)
    with pytest.raises(IdentityError, match="all 1 identities"):
        Identity.open_next_free(tmp_path)
    mine.close()


def test_closing_twice_does_no_harm(tmp_path: Path) -> None:
    mine = Identity.open(tmp_path / "1.key")
    mine.close()
    mine.close()


DAMAGED = {
    "empty": b"",
    "truncated": SigningKey.generate().to_file_bytes()[:-1],
    "not a key": b"-----BEGIN OPENSSH PRIVATE KEY-----",
    "halves of two keys": SigningKey.generate().to_file_bytes()[:36] + SigningKey.generate().to_file_bytes()[36:],
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_and_left_alone_and_not_locked(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "1.key"
    path.write_bytes(content)
    with pytest.raises(IdentityError, match="can't be used as an identity") as refusal:
        Identity.open(path)
    assert str(path) in refusal.value.what
    assert refusal.value.next_step
    assert path.read_bytes() == content
    path.write_bytes(SigningKey.generate().to_file_bytes())
    Identity.open(path).close()


def test_a_folder_in_the_files_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.key").mkdir()
    with pytest.raises(IdentityError, match="can't read or write") as refusal:
        Identity.open(tmp_path / "1.key")
    assert refusal.value.why == "Is a directory"


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "identities").touch()
    with pytest.raises(StorageError, match="can't use the identity") as refusal:
        Identity.open(tmp_path / "identities" / "1.key")
    assert "--home" in refusal.value.next_step
