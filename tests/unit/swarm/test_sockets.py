"""p2pd's sockets find a place, and hivemind's locks do without shared memory."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from p2ptrain.errors import NetworkError
from p2ptrain.lean import has_semaphores, spare_shared_memory
from p2ptrain.swarm import sockets
from p2ptrain.swarm.sockets import LONGEST_PLACE, SocketFolder, is_too_long


def test_a_folder_whose_path_is_too_long_gives_way_to_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert sockets.temporary_folders()[0] == long
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(sockets, "temporary_folders", lambda: [long, Path(short)])
        folder = SocketFolder.make()
        assert folder.path.is_relative_to(short)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(folder.path / "p2pd-0123456789a.sock"))
        folder.remove()


def test_the_longest_place_is_just_short_enough_for_a_socket() -> None:
    """The system, and not our own arithmetic, says what is too long."""
    name = f"/{sockets.OURS}/01234567/p2pclient-0123456789a.sock"
    for length, refusal in ((LONGEST_PLACE, FileNotFoundError), (LONGEST_PLACE + 1, OSError)):
        place = "/proc/" + "x" * (length - len("/proc/"))
        assert is_too_long(Path(place)) == (length > LONGEST_PLACE)
        with socket.socket(socket.AF_UNIX) as probe, pytest.raises(refusal) as told:
            probe.bind(place + name)
        assert ("too long" in str(told.value)) == (length > LONGEST_PLACE)


def test_without_any_place_the_reason_for_each_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "temporary_folders", lambda: [Path("/proc/nowhere"), Path("/" + "x" * 90)])
    with pytest.raises(NetworkError) as refused:
        SocketFolder.make()
    assert "/proc/nowhere" in refused.value.why
    assert "too long for a socket" in refused.value.why
    assert "set TMPDIR" in refused.value.next_step


def test_a_disk_that_can_not_lock_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")  # of filelock, no OSError

    monkeypatch.setattr(sockets, "temporary_folders", lambda: [tmp_path])
    monkeypatch.setattr(sockets, "LONGEST_PLACE", 1000)
    monkeypatch.setattr(sockets, "FileLock", refuse)
    with pytest.raises(NetworkError, match="support flock"):
        SocketFolder.make()


# /dev/shm ------------------------------------------------------------------------------------------------------------


def test_locks_become_those_of_threads_only_while_hivemind_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(multiprocessing, "Lock", refuse)
    assert not has_semaphores()
    with spare_shared_memory():
        assert multiprocessing.Lock is threading.Lock  # type: ignore[comparison-overlap]
    assert multiprocessing.Lock is refuse  # type: ignore[comparison-overlap]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="hiding /dev/shm needs Linux and root")
def test_without_dev_shm_the_swarm_is_imported() -> None:
    script = "from p2ptrain.lean import has_semaphores as has; import p2ptrain.swarm; print(has())"
    hide = f'mount -t tmpfs -o ro tmpfs /dev/shm && exec "{sys.executable}" -c "{script}"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", hide], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"/dev/shm can't be hidden here: {done.stderr.strip()}")
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr
