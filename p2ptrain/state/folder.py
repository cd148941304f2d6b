"""The run folder: genesis and spec, the ledger, the vectors, the peer's own checkpoint and its log.

<home>/identities/<n>.key
<home>/runs/<name>-<run id>/<peer id>/   genesis  spec.json  contact.json  ledger.sqlite  vectors/  incoming/
                                         checkpoint.pt  log.txt  lock
"""

from __future__ import annotations

import contextlib
import logging
import re
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.paths import exists
from p2ptrain.run import Digest, Genesis, PeerId, RunSpec, digest_of, short_peer, spec_from_canonical
from p2ptrain.run.access import owners_of
from p2ptrain.run.digest import SHORTEST_ID
from p2ptrain.state.contact import Contact
from p2ptrain.state.database import DamagedError
from p2ptrain.state.files import tidy_up, write_whole
from p2ptrain.state.incoming import Incoming
from p2ptrain.state.ledger import Ledger
from p2ptrain.state.vectors import Vectors
from p2ptrain.text import first_line, reason_of

_GIVE_ANOTHER = "give the folder that the peer printed at its start"

log = logging.getLogger(__name__)


class RunFolder:
    """The folder of one peer in one run, locked while it is open for training. Close it, or use a `with` block."""

    def __init__(self, path: Path, genesis: Genesis, spec: RunSpec, ledger: Ledger, lock: FileLock | None) -> None:
        self.path, self.genesis, self.spec, self.ledger, self._lock = path, genesis, spec, ledger, lock
        self.vectors = Vectors(path / "vectors")
        self.incoming = Incoming(path / "incoming")
        if lock is not None:
            tidy_up(path)
            tidy_up(path / "vectors")
        self.checkpoint = path / "checkpoint.pt"
        self.log = path / "log.txt"

    @property
    def run(self) -> Digest:
        return self.genesis.digest

    @classmethod
    def place(cls, home: Path, name: str, run: Digest, peer: PeerId) -> Path:
        """The path of a peer's folder of a run."""
        return home / "runs" / f"{name}-{run.hex()[:8]}" / short_peer(peer)

    @classmethod
    def create(cls, home: Path, genesis: Genesis, spec: RunSpec, peer: PeerId) -> Self:
        """Make the folder, or open it if this peer has been in this run before. A damaged genesis or spec is replaced.

        Raises:
            StorageError: it can't be written, another process uses it, or it has another format.
        """
        path = cls.place(home, spec.run.name, genesis.digest, peer)
        if _content(path / "genesis") != genesis.encoded or _content(path / "spec.json") != spec.canonical():
            _refuse_another(path, genesis)
            try:
                path.mkdir(parents=True, exist_ok=True, mode=0o700)  # a private run has secrets here
            except OSError as error:
                why = reason_of(error)
                raise StorageError(f"can't make the run folder {path}", why, "choose another --home") from None
            write_whole(path / "spec.json", spec.canonical())
            write_whole(path / "genesis", genesis.encoded)  # last: a folder with a genesis is complete
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, lock: bool = True) -> Self:
        """Open a folder. With `lock` = False, it can be read while a peer uses it.

        Raises:
            StorageError: this is not a run folder, or it is damaged, in use, or of another format.
        """
        if not exists(path / "genesis") and not exists(path / "ledger.sqlite"):
            raise StorageError(f"{path} is not a run folder", "it holds no genesis", _GIVE_ANOTHER)
        with contextlib.ExitStack() as undo:
            held = _lock(path) if lock else None
            if held is not None:
                undo.callback(held.release)
            ledger = _open_ledger(path / "ledger.sqlite", owned=lock)  # first: its format is that of the other files
            undo.callback(ledger.close)
            folder = cls(path, *_genesis_and_spec(path), ledger, held)
            undo.pop_all()
            return folder

    @property
    def contact(self) -> Contact:
        """How this peer finds the run again."""
        return Contact.read(self.path)

    def close(self) -> None:
        self.ledger.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_folder(given: Path, home: Path) -> Path:
    """The run folder that a volunteer names.

    Args:
        given: a path; or the name of a run, or the beginning of its id, of which there is a folder in `home`.
        home: folder of all run folders. If it holds several of this run, an owner's is chosen.

    Raises:
        StorageError: there is no such folder, or there are several.
    """
    name = str(given)
    if exists(given) or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        return given
    found = sorted(path.parent for path in (home / "runs").glob("*/*/genesis") if _goes_by(path.parent, name))
    meant = [path for path in found if _is_owners(path)] if len(found) > 1 else found
    if len(meant) == 1:
        return meant[0]
    problem = f"{len(meant or found)} run folders go by" if found else "there is no such folder, and no run called"
    why = "\n        ".join(map(str, meant or found)) or f"looked in {home / 'runs'}"
    raise StorageError(f"{problem} {name!r}", why, _GIVE_ANOTHER)


def _goes_by(folder: Path, text: str) -> bool:
    """Whether a folder's run has this name, or an id that begins so. The path tells the name and eight digits."""
    name, _, digits = folder.parent.name.rpartition("-")
    if text == name:
        return True
    if len(text) < SHORTEST_ID or text[: len(digits)] != digits[: len(text)]:
        return False
    return len(text) <= len(digits) or digest_of((folder / "genesis").read_bytes()).hex().startswith(text)


def _is_owners(path: Path) -> bool:
    with contextlib.suppress(StorageError):
        return Contact.read(path).peer in owners_of(*_genesis_and_spec(path))
    return False


def _genesis_and_spec(path: Path) -> tuple[Genesis, RunSpec]:
    """Raises StorageError if they are damaged or missing."""
    try:
        genesis = Genesis.decode((path / "genesis").read_bytes()).check_signature()
        canonical = (path / "spec.json").read_bytes()
        if digest_of(canonical) != genesis.spec:
            raise MalformedError("spec.json is not the run's spec", "its digest differs from the genesis")
        return genesis, spec_from_canonical(canonical)
    except (MalformedError, OSError) as error:
        why = error.brief if isinstance(error, MalformedError) else str(error)
        next_step = "join the run again with an invite: that mends it"
        raise StorageError(f"the run folder {path} is damaged", why, next_step) from None


def _refuse_another(path: Path, genesis: Genesis) -> None:
    """Raises StorageError if the folder is another run's whose id begins with the same eight digits."""
    with contextlib.suppress(MalformedError):
        found = Genesis.decode(_content(path / "genesis") or b"").check_signature()
        if found.digest != genesis.digest:
            why = f"{found.digest.hex()} there, {genesis.digest.hex()} here"
            raise StorageError(f"{path} belongs to another run", why, "choose another --home")


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _open_ledger(path: Path, owned: bool) -> Ledger:
    """Open the ledger. An empty one replaces a damaged or missing one, and the peer fetches its content again."""
    try:
        ledger = Ledger(path, owned)
        if ledger.was_empty and any(path.parent.glob("vectors/*")):
            log.warning("%s is missing or empty: its content is fetched from other peers", path)
        return ledger
    except DamagedError as error:
        if not owned:
            raise
        aside = next(p for n in range(1, 10**6) if not (p := path.with_name(f"{path.name}.damaged-{n}")).exists())
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.rename(aside)
        kept = f"it is kept as {aside.name}, and its content is fetched from other peers"
        log.warning("%s is damaged (%s): %s", path, error.why, kept)
        return Ledger(path, owned)


def _lock(path: Path) -> FileLock:
    lock = FileLock(path / "lock", blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        why = "another process on this machine trains in it"
        raise StorageError(f"the run folder {path} is in use", why, "stop that one first") from None
    except Exception as error:  # of the system, or of filelock, where a disk can't lock
        step = "check its permissions, and that it is on a disk of this machine"
        raise StorageError(f"can't use the run folder {path}", first_line(error), step) from None
    return lock
