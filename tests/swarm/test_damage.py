"""A peer's files are damaged, deleted, copied while they were written to, or find no room: it gets over it alone or
with the others' help, or says which file it is and what to do; and what it says to do helps.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2ptrain.diloco.audit import audit
from p2ptrain.state import RunFolder
from tests.swarm.harm import Case, flip, for_each, newest_vector, scatter, strew_into_incoming
from tests.swarm.lab import Lab, Peer, assert_agreement, write_spec

MB = 1_000_000
HEIGHT = 10
"""There are two snapshots by then."""
STORAGE, NETWORK, IDENTITY = 8, 5, 4
"""Exit codes."""


# A run that goes on while one of its peers is away -------------------------------------------------------------------


@dataclass
class Absence:
    """A peer that has left its run, and what its folder was like before that."""

    lab: Lab
    others: tuple[Peer, ...]
    folder: Path
    height: int
    """When it left."""
    left: Path
    """Its folder after it had left."""
    alive: Path
    """While it trained: as a power loss would have left it."""

    @classmethod
    def of(cls, lab: Lab, peer: Peer, *others: Peer) -> Absence:
        peer.wait_for_height(HEIGHT, timeout=120)
        folder, left, alive = peer.folder, lab.home / "left", lab.home / "alive"
        copy_at_once(peer, alive)
        peer.signal(signal.SIGINT)
        height = peer.wait_for("stopped")["height"]
        assert peer.exit_code() == 0
        shutil.copytree(folder, left)
        return cls(lab, others, folder, height, left, alive)

    def put(self, copy: Path) -> None:
        """Make the folder what it was then; ends who trains in it."""
        for peer in self.lab.peers:
            if peer not in self.others:
                peer.reap()
        shutil.rmtree(self.folder)
        shutil.copytree(copy, self.folder)

    def resume(self, *arguments: str) -> Peer:
        return self.lab.found(self.folder, *arguments, fault="steady")

    @property
    def key(self) -> Path:
        """That of the peer which is away."""
        return sorted((self.lab.home / "identities").glob("*.key"))[-1]


def copy_at_once(peer: Peer, to: Path) -> None:
    """All files as they are at one moment."""
    peer.signal(signal.SIGSTOP)
    try:
        shutil.copytree(peer.folder, to)
    finally:
        peer.signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Absence]:
    """Another peer trains on."""
    lab = Lab(tmp_path_factory.mktemp("away"))
    try:
        keeper = lab.found(write_spec(lab.home, rollback_depth=1000), fault="steady")
        yield Absence.of(lab, lab.join(keeper, fault="steady"), keeper)
    finally:
        lab.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Absence]:
    """There was nobody else."""
    lab = Lab(tmp_path_factory.mktemp("alone"))
    try:
        yield Absence.of(lab, lab.found(write_spec(lab.home), fault="steady"))
    finally:
        lab.close()


def told(peer: Peer) -> str:
    """What a person sees of warnings and errors."""
    warnings = [event["text"] for event in peer.events if event["event"] == "warning"]
    return "\n".join([*warnings, peer.errors])


def assert_takes_part(peer: Peer, other: Peer, began: float) -> None:
    """Its work counts, and it has what the others have."""
    peer.wait_for("training", timeout=90)
    listed = other.wait_for("commit", lambda event: peer.id in event["contributors"], timeout=90, after=began)
    peer.wait_for_height(listed["height"])  # each says in its own time that it has applied it
    assert_agreement(peer, other)
    assert "Traceback" not in peer.errors


def assert_ends_with(peer: Peer, code: int, *words: str) -> None:
    assert peer.exit_code(timeout=120) == code
    assert "Traceback" not in peer.errors
    for word in words:
        assert word in told(peer)


# Damage that the others make good ------------------------------------------------------------------------------------

HEALED = {
    "a vector is flipped": Case(lambda folder: flip(newest_vector(folder)), ".safetensors is damaged"),
    "a vector is deleted": Case(lambda folder: newest_vector(folder).unlink(), ".safetensors is missing"),
    "all vectors are flipped": Case(for_each(flip), ".safetensors is damaged"),
    "all vectors are deleted": Case(for_each(Path.unlink), ".safetensors is missing"),
    "incoming is rubbish": Case(strew_into_incoming, ".safetensors is missing"),
    "the checkpoint is flipped": Case(lambda folder: flip(folder / "checkpoint.pt"), "checkpoint.pt is damaged"),
    "the checkpoint is deleted": Case(lambda folder: (folder / "checkpoint.pt").unlink(), ""),
    "the contacts are flipped": Case(lambda folder: flip(folder / "contact.json", 0), "contact.json can't be read"),
    "the contacts are deleted": Case(lambda folder: (folder / "contact.json").unlink(), "contact.json is missing"),
    "the ledger's first byte is flipped": Case(lambda folder: flip(folder / "ledger.sqlite", 0), "ledger.sqlite is da"),
    "the ledger is flipped all over": Case(lambda folder: scatter(folder / "ledger.sqlite"), "ledger.sqlite"),
    "the ledger is deleted": Case(lambda folder: (folder / "ledger.sqlite").unlink(), "ledger.sqlite is missing"),
    "a power loss": Case(lambda folder: None, "", power_loss=True),
    "a power loss, and the journal is deleted": Case(
        lambda folder: (folder / "ledger.sqlite-wal").unlink(), "ledger.sqlite is missing", power_loss=True
    ),
    "a power loss, and the journal is flipped all over": Case(
        lambda folder: scatter(folder / "ledger.sqlite-wal"), "", power_loss=True
    ),
    "a power loss, and the index of the journal is deleted": Case(
        lambda folder: (folder / "ledger.sqlite-shm").unlink(), "", power_loss=True
    ),
}


def cases(table: dict[str, Case]) -> list[object]:
    return [pytest.param(case, id=name, marks=[pytest.mark.long] if case.long else []) for name, case in table.items()]


@pytest.mark.parametrize("case", cases(HEALED))
def test_a_peer_whose_files_are_damaged_says_so_and_trains_on_with_the_others(away: Absence, case: Case) -> None:
    away.put(away.alive if case.power_loss else away.left)
    case.harm(away.folder)
    began = time.monotonic()
    peer = away.resume()
    assert_takes_part(peer, away.others[0], began)
    assert case.told in told(peer)


# Damage that a person has to do something about ----------------------------------------------------------------------

REFUSED = {
    "the genesis is flipped": Case(lambda folder: flip(folder / "genesis"), "genesis", False),
    "the genesis is deleted": Case(lambda folder: (folder / "genesis").unlink(), "genesis"),
    "the spec is flipped": Case(lambda folder: flip(folder / "spec.json"), "spec.json"),
    "the spec is deleted": Case(lambda folder: (folder / "spec.json").unlink(), "spec.json"),
}


@pytest.mark.parametrize("case", cases(REFUSED))
def test_a_folder_without_its_first_records_is_mended_by_joining_again(away: Absence, case: Case) -> None:
    away.put(away.left)
    case.harm(away.folder)
    assert_ends_with(away.resume(), STORAGE, case.told, str(away.folder), "join the run again with an invite")
    began = time.monotonic()
    again = away.lab.join(away.others[0], fault="steady")
    assert_takes_part(again, away.others[0], began)
    assert again.folder == away.folder
    assert again.commits()[away.height + 1], "it went on from where it was"


@pytest.mark.long
@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_without_its_key_a_peer_asks_for_it(away: Absence, harm: Callable[[Path], None]) -> None:
    away.put(away.left)
    key, backup = away.key, away.lab.home / "backup.key"
    shutil.copy(key, backup)
    try:
        harm(key)
        assert_ends_with(away.resume(), IDENTITY, str(key.parent), "--identity")
        began = time.monotonic()
        assert_takes_part(away.resume("--identity", str(backup)), away.others[0], began)
    finally:
        key.unlink(missing_ok=True)
        shutil.copy(backup, key)


# A peer that has nobody to ask ---------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_peer_alone_falls_back_to_an_older_snapshot_and_loses_nothing(alone: Absence) -> None:
    alone.put(alone.left)
    flip(newest_vector(alone.folder))
    peer = alone.resume()
    assert peer.wait_for("training")["height"] >= alone.height
    peer.wait_for_height(alone.height + 2)
    assert ".safetensors is damaged" in told(peer)
    assert "Traceback" not in peer.errors


LOST = {
    "the ledger is deleted": Case(lambda folder: (folder / "ledger.sqlite").unlink(), "ledger.sqlite is missing"),
    "the ledger is flipped": Case(lambda folder: flip(folder / "ledger.sqlite", 0), "ledger.sqlite is damaged"),
    "all vectors are flipped": Case(for_each(flip), ".safetensors is damaged"),
}


@pytest.mark.parametrize("case", cases(LOST))
def test_a_peer_alone_that_has_lost_the_state_says_so(alone: Absence, case: Case) -> None:
    alone.put(alone.left)
    case.harm(alone.folder)
    assert_ends_with(alone.resume(), NETWORK, case.told, "no peer handed out the run's state")


@pytest.mark.long
def test_a_peer_alone_loses_little_by_a_power_loss(alone: Absence) -> None:
    alone.put(alone.alive)
    peer = alone.resume()
    assert peer.wait_for("training")["height"] >= HEIGHT
    peer.wait_for_height(alone.height + 2)
    assert "Traceback" not in peer.errors


@pytest.mark.long
def test_any_moment_of_training_can_be_gone_back_to(lab: Lab) -> None:
    """Copies of its folder, each taken at once, and some that took their time while files changed."""
    chance = random.Random(0)
    keeper = lab.found(write_spec(lab.home, rollback_depth=1000), fault="steady")
    peer = lab.join(keeper, fault="steady")
    peer.wait_for_height(2)
    folder, copies, known = peer.folder, [], []
    for number in range(6):
        time.sleep(chance.uniform(0.5, 3.0))  # the moment is the point of this test
        copies.append(lab.home / f"copy{number}")
        known.append(max(peer.commits()))
        if number % 2:
            copy_meanwhile(folder, copies[-1])
        else:
            copy_at_once(peer, copies[-1])
            assert_agrees_with_itself(copies[-1])
    for number, copy in enumerate(copies):
        peer.signal(signal.SIGKILL)
        peer.exit_code()
        shutil.rmtree(folder)
        shutil.move(copy, folder)
        began = time.monotonic()
        peer = lab.found(folder, fault="steady")
        assert_takes_part(peer, keeper, began)
        if number % 2 == 0:
            assert min(peer.commits()) <= known[number] + 1, "it began further on than where it was"
            assert not any("state again" in event["text"] for event in peer.events if event["event"] == "warning")


def assert_agrees_with_itself(folder: Path) -> None:
    opened = RunFolder.open(folder, lock=False)
    try:
        assert all(check.good for check in audit(opened))
    finally:
        opened.close()


def copy_meanwhile(folder: Path, to: Path) -> None:
    """File after file; what is deleted in between is not in the copy."""

    def copy(source: str, target: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(source, target)

    shutil.copytree(folder, to, copy_function=copy)


# A full disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs Linux and root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)  # a p2pd may take a moment to end


@pytest.mark.long
@pytest.mark.parametrize(
    "left",
    [
        0.3 * MB,
        0,
    ],
)
def test_a_peer_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(
    small_disk: Path, lab: Lab, left: float
) -> None:
    home = small_disk / "home"
    home.mkdir()
    peer = lab.found(write_spec(lab.home), "--home", str(home), fault="steady")
    peer.wait_for_height(9)
    ballast = small_disk / "ballast"
    fill(ballast, left)
    assert_ends_with(peer, STORAGE, str(peer.folder), "free some disk space")
    assert_ends_with(lab.found(peer.folder, fault="steady"), STORAGE, str(peer.folder), "free some disk space")

    ballast.unlink()
    assert_agrees_with_itself(peer.folder)
    last = max(peer.commits())
    again = lab.found(peer.folder, fault="steady")
    assert again.wait_for("training")["height"] >= last
    again.wait_for_height(last + 5)


def fill(ballast: Path, leaving: float) -> None:
    """Leave so many bytes of the disk."""
    free = shutil.disk_usage(ballast.parent).free
    with ballast.open("wb") as file:
        file.write(bytes(int(free - leaving)))


# A fetch that is interrupted -----------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_joiner_that_is_killed_while_it_fetches_goes_on_where_it_was(lab: Lab) -> None:
    spec = write_spec(lab.home, inner_steps=100)
    text = spec.read_text().replace("hidden_size = 32", "hidden_size = 256")
    spec.write_text(text.replace("snapshot_every = 8", "snapshot_every = 1000"))
    first = lab.found(spec)
    first.wait_for_height(2)
    first.signal(signal.SIGINT)
    assert first.exit_code() == 0
    keeper = lab.found(first.folder)  # it offers what it saved when it was stopped, and nothing newer for a long time
    keeper.wait_for("progress")

    joiner = lab.join(keeper, "--max-down", "600kB")
    halfway = joiner.wait_for("fetching", lambda event: event["bytes_here"] > event["bytes_total"] / 2, timeout=90)
    joiner.signal(signal.SIGKILL)
    joiner.exit_code()
    sent = keeper.wait_for("progress", after=time.monotonic())["bytes_sent"]
    began = time.monotonic()
    again = lab.join(keeper, "--max-down", "600kB")
    whole = again.wait_for("fetching", lambda event: event["bytes_here"] == event["bytes_total"], timeout=90)
    sent = keeper.wait_for("progress", after=whole["at"])["bytes_sent"] - sent
    assert sent < whole["bytes_total"] - halfway["bytes_here"] + 1 * MB
    assert_takes_part(again, keeper, began)
