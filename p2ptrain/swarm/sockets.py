"""What p2pd needs from this machine: free ports, and a folder for its control sockets, which is removed after a
crash."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import socket
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from p2ptrain.errors import NetworkError, UsageError
from p2ptrain.swarm.addresses import address_parts


class SocketFolder:
    """The folder of this process for p2pd's sockets, locked while the process lives."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self._lock = path, lock

    @classmethod
    def make(cls) -> SocketFolder:
        """Make a new folder, and remove those that dead processes have left. Raises NetworkError if the folder can't be
        made."""
        parent = Path(tempfile.gettempdir()) / f"p2ptrain-{os.getuid()}"
        try:
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
        except OSError as error:
            raise NetworkError(
                "can't make a folder for sockets", str(error), "set TMPDIR to a folder of your own"
            ) from None
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
