"""What p2pd needs of this machine: ports that are free, and a folder for its control sockets, swept after a crash."""

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
    """A process's own folder for p2pd's sockets, locked while it lives. Folders of dead processes are removed."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self._lock = path, lock

    @classmethod
    def make(cls) -> SocketFolder:
        parent = Path(tempfile.gettempdir()) / f"p2ptrain-{os.getuid()}"
        try:
            parent.mkdir(mode=0o700, exist_ok=True)
            if parent.stat().st_uid != os.getuid() or parent.stat().st_mode & 0o077:
                raise PermissionError(f"{parent} belongs to someone else or is open to others")
            with FileLock(parent / "lock"):  # nobody sweeps between the making and the locking of a folder
                cls._sweep(parent)
                path = parent / secrets.token_hex(4)
                path.mkdir(mode=0o700)
                lock = FileLock(path / "lock", blocking=False, thread_local=False)
                lock.acquire()
        except OSError as error:
            raise NetworkError(
                "can't make a folder for sockets", str(error), "set TMPDIR to a folder of your own"
            ) from None
        return cls(path, lock)

    @staticmethod
    def _sweep(parent: Path) -> None:
        for path in filter(Path.is_dir, parent.iterdir()):
            with contextlib.suppress(Timeout, OSError), FileLock(path / "lock", blocking=False):
                shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def check_port(address: str) -> None:
    """Refuse an address at which this machine can't listen. libp2p listens with SO_REUSEPORT, so a second process on a
    port would silently take half its connections.

    Raises:
        UsageError: it is no multiaddr.
        NetworkError: it is another machine's, or its port is taken.
    """
    parts = address_parts(address)
    if parts is None:
        raise UsageError(
            f"can't listen at {address!r}",
            "it is no /ip4 or /ip6 multiaddr",
            "write it like --listen /ip4/0.0.0.0/tcp/31337",
        )
    host, transport, port = parts
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as probe:
        if transport == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed connection's port is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NetworkError(
                f"can't listen at {address}",
                f"port {port} is taken by another process" if error.errno == errno.EADDRINUSE else str(error.strerror),
                "choose another port with --listen, or 0 for any free one",
            ) from None
