"""The vectors of snapshots on disk: one safetensors file for each, named by the digest of its numbers.

A vector that did not change between two snapshots is one file for both.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Container
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from p2ptrain.causes import TOO_MANY_FILES
from p2ptrain.errors import StorageError
from p2ptrain.run import Digest, Manifest
from p2ptrain.state.blobs import Read, read_file
from p2ptrain.state.files import drop_unfinished, write_whole
from p2ptrain.text import first_line

Number = TypeVar("Number", bound=np.generic)
Numbers = NDArray[np.float32] | NDArray[np.int32]

_SUFFIX = ".safetensors"
_NAME = "vector"
_LACKS = (*TOO_MANY_FILES, errno.ENOMEM)


class Vectors:
    """A folder of vectors. Any thread may call it: files are not deleted while another thread writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changing = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, digest: Digest, values: Numbers) -> None:
        """Write a vector, unless it is there already and whole.

        Raises:
            StorageError: the disk is full or not writable. The vector's file is never half-written.
        """
        with self._changing:
            with contextlib.suppress(StorageError, OSError):  # damaged: written anew
                if self.load(digest, values.dtype.type) is not None:
                    return
            write_whole(self.path(digest), save({_NAME: values}))

    def load(self, digest: Digest, dtype: type[Number]) -> NDArray[Number] | None:
        """Read a vector of float32 or int32 and check it; None if it is not there.

        Raises:
            StorageError: the file is damaged, or holds other numbers.
            MemoryError, OSError: this machine lacks memory, or may open no more files; that tells nothing of the file.
        """
        path = self.path(digest)
        if not path.exists():
            return None
        try:
            # Why a file can't be opened is told by `open`; `safe_open` says of any such file that it is not there.
            with path.open("rb"), safe_open(path, framework="numpy") as file:
                values: NDArray[Number] = file.get_tensor(_NAME)
        except MemoryError:
            raise
        except Exception as error:  # of the system, or of safetensors, whatever the damage has left
            if isinstance(error, FileNotFoundError) and error.errno is None:  # it is open, and can't be opened twice
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path)) from None
            if isinstance(error, OSError) and error.errno in _LACKS:
                raise
            raise self._damaged(path, first_line(error)) from None
        if values.dtype != dtype or Manifest.of(values.data.cast("B")).digest != digest:
            raise self._damaged(path, "its content does not match its digest")
        return values

    def source(self, digest: Digest) -> Read:
        """What reads the numbers in a vector's file, to serve them from disk; raises OSError."""
        path = self.path(digest)
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")  # safetensors: u64 header length, header, numbers
        return partial(read_file, path, 8 + header)

    def size(self, digest: Digest) -> int:
        """Bytes of a vector's file; 0 if it is not there."""
        path = self.path(digest)
        return path.stat().st_size if path.exists() else 0

    def __contains__(self, digest: Digest) -> bool:
        return self.path(digest).exists()

    def keep_only(self, digests: Container[Digest]) -> list[Digest]:
        """Delete all other vectors, and files that a crash left half-written. Returns the digests of those deleted."""
        dropped = []
        with self._changing:
            drop_unfinished(self._folder)
            for path in self._folder.glob(f"*{_SUFFIX}"):
                with contextlib.suppress(ValueError):  # not one of ours
                    digest = Digest(bytes.fromhex(path.stem))
                    if digest not in digests:
                        path.unlink(missing_ok=True)
                        dropped.append(digest)
        return dropped

    def path(self, digest: Digest) -> Path:
        """The path of a vector's file, whether it is there or not."""
        return self._folder / f"{digest.hex()}{_SUFFIX}"

    @staticmethod
    def _damaged(path: Path, why: str) -> StorageError:
        return StorageError(f"{path} is damaged", why, "delete that file: the peer fetches what is missing")
