"""`p2ptrain export`: write a state of a run as a folder that transformers loads, with `provenance.json` beside it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from p2ptrain.commands.provenance import Provenance
from p2ptrain.errors import StorageError
from p2ptrain.method import PastState
from p2ptrain.peer.methods import method_of
from p2ptrain.peer.session import prepare_torch
from p2ptrain.state import RunFolder
from p2ptrain.tasks import LocalOptions, Task, open_task
from p2ptrain.text import reason_of


def export_run(run_dir: Path, out: Path, model: str | None, at: int | None = None) -> str:
    """Write a state of the run to the folder `out`. It works beside a running peer.

    Args:
        model: folder with the pretrained model; None: what the run names.
        at: height of the state, or in a one-byte run the number of records of a snapshot; None: the newest state.

    Returns:
        One line that says what was written.

    Raises:
        StorageError: `run_dir` is no run folder, it can't make that state, or `out` is not empty or can't be written.
        DataError: the model can't be loaded.
    """
    check_is_free(out)
    prepare_torch(None)
    with RunFolder.open(run_dir, lock=False) as folder:
        task = open_task(folder.spec, LocalOptions(device="cpu", model=model), trains=False)
        return write(folder, task, out, method_of(folder.spec).state_at(folder, task.model, at))


def check_is_free(out: Path) -> None:
    """Raises StorageError if `out` is a file or a folder with something in it."""
    try:
        if not out.is_file() and not (out.is_dir() and any(out.iterdir())):
            return
        what = f"{out} is not empty" if out.is_dir() else f"{out} is a file"
    except OSError as error:  # a folder above it may not be read, or its name is too long
        raise StorageError(f"can't write {out}", reason_of(error), "choose another folder") from None
    raise StorageError(what, "an export never overwrites anything", "give the name of a new folder")


def write(folder: RunFolder, task: Task, out: Path, state: PastState) -> str:
    """Write a state and its provenance to the folder `out`; returns one line that says what was written. Raises
    StorageError if `out` can't be written."""
    try:
        task.export(state.parameters, out)
        Provenance.of(folder, state).write(out)
    except (OSError, SafetensorError) as error:  # the latter on a full disk
        raise StorageError(f"can't write {out}", reason_of(error), "choose another folder") from None
    return f"wrote {out}: {state.words}, state {state.head.state.hex()[:12]}"
