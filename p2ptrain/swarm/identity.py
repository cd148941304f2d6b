"""A peer's identity: one file with an Ed25519 key, which only one process may use at a time.

The file has libp2p's own format and mode 0400, and is written on first use. The process that uses it holds a lock on
`<file>.lock`. The operating system removes the lock when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from p2ptrain.errors import IdentityError, StorageError
from p2ptrain.paths import PathLike, path_of
from p2ptrain.run import PeerId, SigningKey
from p2ptrain.text import reason_of

MAX_LOCAL_PEERS = 1000


class Identity:
    """A locked key file. Close it, or end the process, so that another process can use it."""

    def __init__(self, path: Path, key: SigningKey, lock: FileLock) -> None:
        self.path, self.key, self._lock = path, key, lock
        self.peer_id = key.peer_id

    @classmethod
    def open(cls, path: PathLike) -> Self:
        """Lock and read the identity in `path`; write a new one if there is no file.

        Raises:
            UsageError: `path` is no path.
            IdentityError: another process uses it, or the file holds no Ed25519 key.
            StorageError: this process can't write to the folder.
        """
        path = path_of(path, "path")
        lock = _lock(path)
        if lock is None:
            raise IdentityError(
                f"the identity {path} is in use",
                "another process on this machine uses it, and two peers can't have one identity",
                "stop the other process, or start this one with another --identity",
            )
        try:
            return cls(path, _read_or_make(path), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open_next_free(cls, folder: PathLike, avoid: Container[PeerId] = ()) -> Self:
        """Lock the first identity in `folder` (1.key, 2.key, …) that no process uses and that is not in `avoid`.

        Raises:
            UsageError: `folder` is no path.
            IdentityError: there is none, or a file can't be used.
            StorageError: this process can't write to the folder.
        """
        folder = path_of(folder, "folder")
        for number in range(1, MAX_LOCAL_PEERS + 1):
            path = folder / f"{number}.key"
            lock = _lock(path)
            if lock is None:
                continue
            identity = cls(path, _read_or_make(path), lock)
            if identity.peer_id not in avoid:
                return identity
            identity.close()
        raise IdentityError(f"all {MAX_LOCAL_PEERS} identities in {folder} are in use")

    @classmethod
    def find(cls, folder: Path, ending: str) -> Path:
        """The key file in `folder` of the peer whose id ends with `ending`. Raises IdentityError if there is none."""
        for path in sorted(folder.glob("*.key")):
            with contextlib.suppress(IdentityError):  # this file is not the one that was asked for
                if _read_or_make(path).peer_id.endswith(ending):
                    return path
        next_step = "give its key file with --identity, or join the run with an invite"
        raise IdentityError(f"no identity in {folder} belongs to the peer …{ending}", next_step=next_step)

    @staticmethod
    def is_in_use(path: Path) -> bool:
        """Whether a process uses the identity in this file now."""
        lock = _lock(path)
        if lock is not None:
            lock.release()
        return lock is None

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()


def _lock(path: Path) -> FileLock | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(path.with_name(path.name + ".lock"), blocking=False, thread_local=False)
        lock.acquire()
    except Timeout:
        return None
    except Exception as error:  # of the system, or of filelock, where a disk can't lock
        step = "choose a folder you can write, on a disk of this machine: --home, or --identity FILE"
        raise StorageError(f"can't use the identity {path}", reason_of(error), step) from None
    return lock


def read_key(path: Path) -> SigningKey:
    """Read a key file without locking it, so another process may use that identity at the same time. Raises
    IdentityError if the file can't be read, or holds no Ed25519 key."""
    try:
        return SigningKey.from_file_bytes(path.read_bytes())
    except ValueError as error:
        raise IdentityError(
            f"{path} can't be used as an identity", str(error), "choose another file with --identity"
        ) from None
    except OSError as error:
        raise _not_usable(path, error) from None


def _read_or_make(path: Path) -> SigningKey:
    if path.exists():
        return read_key(path)
    key = SigningKey.generate()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.to_file_bytes())
    except OSError as error:
        raise _not_usable(path, error) from None
    return key


def _not_usable(path: Path, error: OSError) -> IdentityError:
    return IdentityError(f"can't read or write the identity {path}", reason_of(error), "check the file's permissions")
