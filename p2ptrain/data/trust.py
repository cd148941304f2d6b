"""No code that a dataset names is ever run, and it reads no files but its own (docs/safety.md)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from p2ptrain.errors import DataError


def is_folder(name: str) -> bool:
    """Whether a name, which may also be one on the hub, is that of a folder on this machine."""
    try:
        return Path(name).is_dir()
    except OSError:  # the name is too long for a file, or the place can't be read
        return False


def check_dataset(name: str) -> None:
    """Check a dataset's name, and its folder if it is one.

    Raises:
        DataError: it has a loading script, or its name is that of a file format.
    """
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as FORMATS

    if name in FORMATS:
        raise DataError(
            f"{name!r} is not a dataset",
            f"it is a file format of the datasets library, which would read whatever lies in {Path.cwd()}",
            "name a dataset on the hub or a folder, or use data.source = 'files'",
        )
    if name.endswith(".py") or (is_folder(name) and (Path(name) / f"{Path(name).resolve().name}.py").is_file()):
        refuse_script(name)


def check_files(name: str, files: Iterable[str], copy: Path | None = None) -> None:
    """Check which files a dataset's own description names.

    Args:
        copy: the folder of the hub's cache from which the dataset is read; None: it is read from where its name says.

    Raises:
        DataError: one is neither on the hub nor in the dataset's folder, e.g. another file of this machine.
    """
    folder = copy or (Path(name) if is_folder(name) else None)
    for file in files:
        place = file.rpartition("::")[2]  # for a file in an archive: the archive
        if folder is None:
            inside = place.startswith("hf://")
        else:
            inside = "://" not in place and Path(place).resolve().is_relative_to(folder.resolve())
        if not inside:
            what = f"the dataset {name!r} would read files that are not its own"
            raise DataError(what, f"its description names {file}", "use another dataset")


def refuse_script(name: str) -> NoReturn:
    """Refuse a dataset that has a loading script: raises DataError."""
    why = "it has a loading script, a Python file to run"
    refuse_code_of("dataset", name, why, "pass its data as files, with --data")


def refuse_code_of(kind: str, name: str, why: str, instead: str = "pass a folder without it, with --model") -> NoReturn:
    """Refuse a model, tokenizer or dataset that would have code run: raises DataError."""
    raise DataError(
        f"the {kind} {name!r} wants code of its own to be run",
        why,
        f"p2ptrain runs no code from the network: use another {kind}, or {instead}",
    )
