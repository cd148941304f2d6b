"""Turn a run folder into a folder that transformers loads, with a note of where the weights come from."""

from __future__ import annotations

from pathlib import Path

import torch

from p2ptrain.commands.provenance import Provenance
from p2ptrain.diloco.audit import branch_of
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.replica import Replica, StateGone
from p2ptrain.errors import StorageError
from p2ptrain.parameters import digest_of_frozen, shared_parameters
from p2ptrain.peer.session import prepare_torch
from p2ptrain.run import NO_DIGEST, Digest, SPSAMethod
from p2ptrain.spsa.audit import Past
from p2ptrain.spsa.position import Position
from p2ptrain.spsa.state import MasterState
from p2ptrain.state import Blobs, RunFolder
from p2ptrain.tasks import LocalOptions, Task, open_task


def export_run(run_dir: Path, out: Path, model: str | None, at: int | None = None) -> str:
    """Write the newest state that the folder's ledger leads to, or that of height `at` (of a one-byte run: of the
    snapshot of so many records); works beside a running peer.

    Returns:
        One line that says what was written.

    Raises:
        StorageError: no run folder, no usable snapshot in it, or `out` can't be written.
    """
    check_is_free(out)
    prepare_torch(None)
    try:
        with RunFolder.open(run_dir, lock=False) as folder:
            task = open_task(folder.spec, LocalOptions(device="cpu", model=model))
            one_byte = isinstance(folder.spec.method, SPSAMethod)
            return _export_masters(folder, task, out, at) if one_byte else _export_fragments(folder, task, out, at)
    except StateGone as error:
        raise StorageError(
            f"{'the newest state' if at is None else f'the state of height {at}'} can't be computed in {run_dir}",
            error.why,
            "start the peer again: it fetches what is missing" if at is None else "choose a later height",
        ) from None
    except OSError as error:
        raise cannot_write(out, error) from None


def check_is_free(out: Path) -> None:
    """Raises StorageError if there is something already."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        what = f"{out} is not empty" if out.is_dir() else f"{out} is a file"
        raise StorageError(what, "an export never overwrites anything", "give a new folder")


def cannot_write(out: Path, error: OSError) -> StorageError:
    return StorageError(f"can't write {out}", error.strerror or str(error), "choose another folder")


def _export_fragments(folder: RunFolder, task: Task, out: Path, at: int | None) -> str:
    tensors = shared_parameters(task.model)
    shapes, frozen = {name: p.shape for name, p in tensors.items()}, digest_of_frozen(task.model)
    layout = Layout.of(shapes, folder.spec.diloco.fragments, frozen)
    head = folder.ledger.head
    if head == NO_DIGEST:
        raise StorageError(
            f"{folder.path} holds no state yet", "the peer stopped before its first snapshot", "start the peer again"
        )
    state = Replica(folder, layout, Blobs()).state_at(_commit_at(folder, head, at))
    parameters = layout.assemble([torch.tensor(fragment.theta.values) for fragment in state.fragments])
    task.export(parameters, out)
    Provenance.of(folder, state).write(out)
    return f"wrote {out}: height {state.height}, state {state.digest.hex()[:12]}"


def _export_masters(folder: RunFolder, task: Task, out: Path, at: int | None) -> str:
    past = Past(folder)
    position: Position = past.book.standing() if at is None else past.position_of(at)
    return write_masters(folder, task, out, past, past.state_at(position))


def write_masters(folder: RunFolder, task: Task, out: Path, past: Past, state: MasterState) -> str:
    """Write a state of a one-byte run; returns one line that says what was written."""
    task.export(state.layout.to_weights(torch.from_numpy(state.master.copy())), out)
    Provenance.of_logs(folder, state, past.shares(state.position)).write(out)
    return f"wrote {out}: {state.records:,} records, state {state.digest.hex()[:12]}"


def _commit_at(folder: RunFolder, head: Digest, height: int | None) -> Digest:
    """The commit of a height on the head's branch; None: the head."""
    if height is None:
        return head
    if height == 0:
        return NO_DIGEST
    by_height = {commit.height: commit.digest for commit in branch_of(folder, head)}
    if height not in by_height:
        known = f"it knows heights {min(by_height)} to {max(by_height)}" if by_height else "it knows none"
        raise StorageError(f"{folder.path} has no commit of height {height}", known, "choose another height with --at")
    return by_height[height]
