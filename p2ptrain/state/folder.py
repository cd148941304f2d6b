"""A run's folder on this machine: its genesis and spec, the ledger, the vectors, the peer's own checkpoint and log.

<home>/identities/<n>.key
<home>/runs/<name>-<run id>/<peer id>/   genesis  spec.json  ledger.sqlite  vectors/  checkpoint.pt  log.txt  lock
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.run import Digest, Genesis, PeerId, RunSpec, digest_of, short_peer, spec_from_canonical
from p2ptrain.state.ledger import Ledger
from p2ptrain.state.vectors import Vectors, write_whole


class RunFolder:
    """One peer's folder of one run, locked while it is open for training."""

    def __init__(self, path: Path, genesis: Genesis, spec: RunSpec, lock: FileLock | None) -> None:
        self.path, self.genesis, self.spec, self._lock = path, genesis, spec, lock
        self.ledger = Ledger(path / "ledger.sqlite")
        self.vectors = Vectors(path / "vectors")
        self.checkpoint = path / "checkpoint.pt"
        self.log = path / "log.txt"

    @property
    def run(self) -> Digest:
        return self.genesis.digest

    @classmethod
    def place(cls, home: Path, name: str, run: Digest, peer: PeerId) -> Path:
        """Where a peer's folder of a run belongs."""
        return home / "runs" / f"{name}-{run.hex()[:8]}" / short_peer(peer)

    @classmethod
    def create(cls, home: Path, genesis: Genesis, spec: RunSpec, peer: PeerId) -> Self:
        """Make the folder, or open it if this peer has been in this run before.

        Raises:
            StorageError: it can't be written, or another process uses it.
        """
        path = cls.place(home, spec.run.name, genesis.digest, peer)
        if not (path / "genesis").exists():
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"can't make the run folder {path}", error.strerror or str(error), "choose another --home"
                ) from None
            write_whole(path / "spec.json", spec.canonical())
            write_whole(path / "genesis", genesis.encoded)  # last: its presence says that the folder is complete
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, lock: bool = True) -> Self:
        """Open a folder; `lock` = False to read it while a peer may be using it.

        Raises:
            StorageError: no run folder, damaged, or in use.
        """
        if not (path / "genesis").is_file():
            raise StorageError(
                f"{path} is no run folder", "it holds no genesis", "give the folder that the peer printed at its start"
            )
        held = _lock(path) if lock else None
        try:
            genesis = Genesis.decode((path / "genesis").read_bytes()).check_signature()
            canonical = (path / "spec.json").read_bytes()
            if digest_of(canonical) != genesis.spec:
                raise MalformedError("spec.json is not the run's spec", "its digest differs from the genesis")
            return cls(path, genesis, spec_from_canonical(canonical), held)
        except BaseException as error:
            if held is not None:
                held.release()
            if isinstance(error, MalformedError | OSError):
                raise StorageError(
                    f"the run folder {path} is damaged", str(error), "move it away and join again"
                ) from None
            raise

    def close(self) -> None:
        self.ledger.close()
        if self._lock is not None:
            self._lock.release()


def _lock(path: Path) -> FileLock:
    lock = FileLock(path / "lock", blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise StorageError(
            f"the run folder {path} is in use", "another process on this machine trains in it", "stop that one first"
        ) from None
    except OSError as error:
        raise StorageError(f"can't use the run folder {path}", str(error), "check its permissions") from None
    return lock
