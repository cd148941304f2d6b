"""What can be known of a model, tokenizer or data before it is loaded: where it comes from, its size and its licence.

The libraries that load it say which files they mean, how large these are, and which are on this machine already:
huggingface_hub by a dry run, datasets by its builder. The hub has a few seconds to answer; a hub that stays silent
ends no peer. What the hub, a folder or a file says is a stranger's word: it is bounded, and only shown.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CardData, HfApi, HfFileSystem, constants, hf_hub_download, metadata_load, snapshot_download
from huggingface_hub.errors import DryRunError, HfHubHTTPError, HFValidationError

from p2ptrain.data.files import find_files
from p2ptrain.data.library import dataset_builder, is_here, places_of
from p2ptrain.data.trust import is_folder
from p2ptrain.errors import DataError
from p2ptrain.monitor.events import Part
from p2ptrain.run.spec import DatasetData, FilesData
from p2ptrain.tasks.documents import TextData
from p2ptrain.text import one_line
from p2ptrain.units import counted

SECONDS = 4.0
CARD_BYTES, INDEX_BYTES = 2**20, 2**26
NAME_LENGTH, LICENCE_LENGTH = 80, 40
NAMED_FILES = 3
NO_ANSWER = "the hub did not answer"
MALFORMED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What reading a stranger's JSON or YAML raises."""
TOKENIZER_FILES = r"[^/]*token[^/]*\.json|vocab\.[^/]*|merges\.txt|[^/]*\.model|[^/]*\.jinja"
"""Files that tokenizers are made of. Each class of transformers loads some of them."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is known so far of one model, tokenizer or dataset."""

    part: Part
    folder: Path | None = None
    """Where its files are, if they are on this machine."""
    parameters: int | None = None
    """The hub's number of parameters of a model."""


Look = Iterator[Source]
"""Yields what is known at once, and again each time that more has been found out."""


def known_in_time(looks: Mapping[str, Look], seconds: float = SECONDS) -> dict[str, Source]:
    """Follow all looks at the same time, for `seconds` at most.

    Returns:
        The last that each look has yielded by then.
    """
    known = {key: next(look) for key, look in looks.items()}

    def follow(key: str) -> None:
        for source in looks[key]:
            known[key] = source

    # Nothing can interrupt the look-up of a host's name, or a walk through a slow disk. Such a thread is left behind.
    threads = [threading.Thread(target=follow, args=[key], daemon=True) for key in looks]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(known)


# Models and tokenizers -----------------------------------------------------------------------------------------------

Choose = Callable[[Collection[str], Callable[[str], Path]], list[str]]
"""Given the names of all files, and a function that opens one: the names of those that are loaded."""


def weights_of(names: Collection[str], find: Callable[[str], Path]) -> list[str]:
    """Choose as transformers does: the first kind of weights that is there, whole or in the parts that an index names.

    Raises:
        One of `MALFORMED`: the index can't be read.
    """
    for whole in (constants.SAFETENSORS_SINGLE_FILE, constants.PYTORCH_WEIGHTS_NAME):
        if whole in names:
            return [whole]
        if (index := f"{whole}.index.json") in names:
            return sorted(set(json.loads(find(index).read_text())["weight_map"].values()))
    return []


def tokenizer_of(names: Collection[str], _: Callable[[str], Path]) -> list[str]:
    return sorted(name for name in names if re.fullmatch(TOKENIZER_FILES, name))


def pretrained_source(name: str, revision: str | None, shown: str, choose: Choose) -> Look:
    """Look at a pretrained model or a tokenizer.

    Args:
        name: of a repository on the hub, or a folder.
        shown: what people see instead.
    """
    part = Part(one_line(shown, NAME_LENGTH), "hub", unknown=NO_ANSWER)
    if is_folder(name):
        part = replace(part, place="folder", unknown="")
        yield Source(part, Path(name))
        yield _on_disk(part, Path(name), choose)
        return
    yield (found := Source(part))
    if folder := _cached(name, revision, choose):
        yield (found := _on_disk(replace(part, place="cache"), folder, choose))
    try:
        info = HfApi().model_info(name, revision=revision, timeout=SECONDS)
        part = replace(part, licence=licence_of(info.card_data))
        parameters = _total([info.safetensors.total]) if info.safetensors else None
        yield (found := Source(part, _cached(name, info.sha, choose), parameters))
        chosen = choose([file.rfilename for file in info.siblings or ()], lambda file: _index(name, file, info.sha))
        files = snapshot_download(name, revision=info.sha, allow_patterns=chosen, dry_run=True)
        missing = [file for file in files if file.will_download]
        count = _total(file.file_size for file in missing or files) if len(files) == len(chosen) else None
        unknown = "the hub does not have all files of it" if count is None else ""
        place: Literal["hub", "cache"] = "hub" if missing or not files else "cache"
        yield replace(found, part=replace(part, place=place, bytes=count, unknown=unknown))
    except Exception as error:
        yield replace(found, part=replace(found.part, unknown=_reason(error)))


def _index(name: str, file: str, commit: str | None) -> Path:
    """Fetch the index that names a model's files of weights; it is small, and loading begins with it, too."""
    size = hf_hub_download(name, file, revision=commit, dry_run=True).file_size
    if size is None or size > INDEX_BYTES:
        raise ValueError(f"{file} is too large for an index")
    return Path(hf_hub_download(name, file, revision=commit))


def _cached(name: str, revision: str | None, choose: Choose) -> Path | None:
    """Where the hub's cache has a revision of a model; None if one of the files that are loaded is missing there."""
    try:
        # With no pattern, nothing has to be complete: whoever loads a model fetches a few of its files.
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[], local_files_only=True))
    except Exception:  # it is not there, or the cache can't be read
        return None
    return folder if _bytes_in(folder, choose) is not None else None


def _on_disk(part: Part, folder: Path, choose: Choose) -> Source:
    return Source(replace(part, bytes=_bytes_in(folder, choose), licence=licence_in(folder)), folder)


def _bytes_in(folder: Path, choose: Choose) -> int | None:
    """Bytes of the files that are loaded from a folder; None if one is missing, or the folder can't be read."""
    with contextlib.suppress(OSError, *MALFORMED):
        if chosen := choose({path.name for path in folder.iterdir()}, folder.joinpath):
            return sum((folder / name).stat().st_size for name in chosen)
    return None


def _total(counts: Iterable[Any]) -> int | None:
    """Sum of what the hub says; None if it says nothing, or something that is no count."""
    said = list(counts)
    return sum(said) if said and all(isinstance(count, int) and count >= 0 for count in said) else None


def _reason(error: Exception) -> str:
    """Why the hub's answer is not known, for people. Whatever it is, loading meets it again and says more."""
    match error.__cause__ if isinstance(error, DryRunError) else error:
        case DataError(why=why):
            return one_line(why, NAME_LENGTH)
        case HFValidationError():
            return "this is no name on the hub"
        case HfHubHTTPError(response=response):
            return f"the hub answered {response.status_code}"
    return "what the hub answered can't be read" if isinstance(error, MALFORMED) else NO_ANSWER


# Licences ------------------------------------------------------------------------------------------------------------


def licence_of(card: CardData | dict[str, Any] | None) -> str:
    """What a model's or dataset's card calls its licence; empty if it names none."""
    fields = card or {}
    said = fields.get("license")
    if said == "other":
        said = fields.get("license_name") or said
    names = said if isinstance(said, list) else [said]
    return one_line(", ".join(str(name) for name in names if name), LICENCE_LENGTH)


def licence_in(folder: Path) -> str:
    """What a folder's README.md or LICENSE says; empty if they say nothing."""
    with contextlib.suppress(Exception):  # the YAML of a stranger: it fails in many ways
        readme = folder / "README.md"
        if readme.stat().st_size <= CARD_BYTES and (name := licence_of(metadata_load(readme))):
            return name
    for file in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        with contextlib.suppress(OSError), (folder / file).open(encoding="utf-8", errors="replace") as text:
            lines = [line.strip("# ") for line in text.read(CARD_BYTES).splitlines()]
            if first := next(filter(str.strip, lines), ""):
                return one_line(first, LICENCE_LENGTH)
    return ""


# Data ----------------------------------------------------------------------------------------------------------------


def data_source(data: TextData, own: tuple[str, ...]) -> Look:
    """Look at a run's data; or at `own`, the files that the volunteer has named instead."""
    if own:
        return files_source(own, "--data ")
    if isinstance(data, FilesData):
        return files_source(data.paths)
    if isinstance(data, DatasetData):
        return dataset_source(data)
    return iter([Source(Part("the standard library of this Python", "here"))])


def dataset_source(data: DatasetData) -> Look:
    """Look at a dataset of the hub, or a folder."""
    import datasets  # noqa: F401  (this takes seconds, which are not the hub's)

    folder = Path(data.dataset) if is_folder(data.dataset) else None
    subset = f"{data.subset}, " if data.subset else ""
    name = one_line(f"{data.dataset} ({subset}{data.split})", NAME_LENGTH)
    part = Part(name, "folder") if folder else Part(name, "hub", streamed=data.streaming, unknown=NO_ANSWER)
    yield Source(part)
    offline = folder is None and constants.HF_HUB_OFFLINE
    try:
        if folder:
            part = replace(part, licence=licence_in(folder))
        elif not offline:  # what was prepared before is found without the hub, too
            info = HfApi().dataset_info(data.dataset, timeout=SECONDS, expand=["cardData"])
            part = replace(part, licence=licence_of(info.card_data))
            yield Source(part)
        builder = dataset_builder(data)
        if part.place == "hub" and not data.streaming and is_here(builder, data):
            part = replace(part, place="cache")
        count, at_most = _bytes_of(builder, data)
        yield Source(replace(part, bytes=count, at_most=at_most, unknown=part.unknown if offline else ""))
    except Exception as error:
        yield Source(part if offline else replace(part, unknown=_reason(error)))


def _bytes_of(builder: Any, data: DatasetData) -> tuple[int | None, bool]:
    """(bytes of the files that the datasets library reads, whether it may read less of them)."""
    files = places_of(builder, data)
    if not files:  # its files are not known any more: without the hub, the library uses what it has prepared before
        return _total([builder.info.download_size]), False
    hub = HfFileSystem()
    sizes = (hub.info(file)["size"] if file.startswith("hf://") else Path(file).stat().st_size for file in files)
    return _total(sizes), data.streaming and data.split not in builder.config.data_files


def files_source(patterns: Sequence[str], option: str = "") -> Look:
    """Look at files of this machine, by paths and patterns."""
    more = f" and {len(patterns) - NAMED_FILES} more" if len(patterns) > NAMED_FILES else ""
    part = Part(one_line(option + ", ".join(patterns[:NAMED_FILES]), NAME_LENGTH) + more, "files")
    yield Source(replace(part, unknown="size unknown: there are many"))
    try:
        files = find_files(patterns).files
        count = sum(file.stat().st_size for file in files)
        yield Source(replace(part, what=f"{part.what}: {counted(len(files), 'file')}", bytes=count))
    except (DataError, OSError, ValueError) as error:
        yield Source(replace(part, unknown=one_line(str(error).partition("\n")[0], NAME_LENGTH)))
