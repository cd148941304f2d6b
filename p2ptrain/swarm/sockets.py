"""What p2pd needs from this machine: free ports, and a folder for its control sockets, which is removed after a
crash."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from p2ptrain.errors import NetworkError, UsageError
from p2ptrain.swarm.addresses import address_parts

SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of the longest path of a socket."""
SOCKET_NAME = len("/01234567/p2pclient-0123456789a.sock")
"""hivemind chooses the name of the file."""
OURS = f"p2ptrain-{os.getuid()}"
"""The folder in a place for temporary files where all our peers' folders are."""
LONGEST_PLACE = SOCKET_PATH - SOCKET_NAME - len(f"/{OURS}")


def temporary_folders() -> list[Path]:
    """Where sockets may lie, the best place first: the user's choice may be too long, full or not writable."""
    places = [os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp"]
    with contextlib.suppress(OSError):  # there is no folder for temporary files
        places.insert(0, tempfile.gettempdir())
    return list(dict.fromkeys(Path(place) for place in places if place))


def is_too_long(place: Path) -> bool:
    """Whether sockets in this place for temporary files would have a path that is too long."""
    return len(os.fsencode(place)) > LONGEST_PLACE


class SocketFolder:
    """The folder of this process for p2pd's sockets, locked while the process lives."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self._lock = path, lock

    @classmethod
    def make(cls) -> SocketFolder:
        """Make a new folder in the first place that allows it, and remove those that dead processes have left there.
        Raises NetworkError if no place does."""
        refusals = []
        for place in temporary_folders():
            try:
                return cls._make_in(place / OURS)
            except Exception as error:  # of the system, or of filelock, where a disk can't lock
                refusals.append(str(error))
        raise NetworkError(
            "can't make a folder for sockets",
            "\n        ".join(dict.fromkeys(refusals)),
            f"set TMPDIR to a folder that you can write, with a path of at most {LONGEST_PLACE} characters",
        )

    @classmethod
    def _make_in(cls, parent: Path) -> SocketFolder:
        if is_too_long(parent.parent):
            raise OSError(errno.ENAMETOOLONG, "this path is too long for a socket", str(parent))
        parent.mkdir(mode=0o700, exist_ok=True)
        if parent.stat().st_uid != os.getuid() or parent.stat().st_mode & 0o077:
            raise PermissionError(f"{parent} belongs to another user or is open to others")
        with FileLock(parent / "lock"):  # so that nobody removes a new folder before it is locked
            for left in filter(Path.is_dir, parent.iterdir()):
                with contextlib.suppress(Timeout, OSError), FileLock(left / "lock", blocking=False):
                    shutil.rmtree(left, ignore_errors=True)
            path = parent / secrets.token_hex(4)
            path.mkdir(mode=0o700)
            lock = FileLock(path / "lock", blocking=False, thread_local=False)
            lock.acquire()
        return cls(path, lock)

    def remove(self) -> None:
        """Remove the folder; call it once p2pd has ended."""
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def check_port(address: str) -> None:
    """Check that this machine can listen at a multiaddr. libp2p itself would not notice: it listens with SO_REUSEPORT,
    and a second process at the same port would silently take half of the connections.

    Raises:
        UsageError: it is not a multiaddr that begins with /ip4 or /ip6.
        NetworkError: this machine does not have the address, or another process uses the port.
    """
    parts = address_parts(address)
    if parts is None:
        raise UsageError(
            f"can't listen at {address!r}",
            "it is not a multiaddr that begins with /ip4 or /ip6",
            "write it like --listen /ip4/0.0.0.0/tcp/31337",
        )
    host, transport, port = parts
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as probe:
        if transport == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port of a closed connection is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NetworkError(
                f"can't listen at {address}",
                f"port {port} is taken by another process" if error.errno == errno.EADDRINUSE else str(error.strerror),
                "choose another port with --listen, or 0 for any free one",
            ) from None
