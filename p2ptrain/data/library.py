"""Find a dataset by its name on the hub, or in a folder, with the datasets library.

The library says which files a subset and a split have. Files of common formats are read here, row by row; a file in
another format is read by the library itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfFileSystem, constants, snapshot_download, try_to_load_from_cache

from p2ptrain.data.loading import loading
from p2ptrain.data.rows import row_groups
from p2ptrain.data.source import File, LibraryRows, Source
from p2ptrain.data.trust import check_dataset, check_files, is_folder, refuse_script
from p2ptrain.run.spec import DatasetData

FORMS = {"json": "jsonl", "csv": "csv", "parquet": "parquet", "text": "text"}
"""Formats that are read here, by the library's names."""
_FREE = {"name", "version", "data_dir", "data_files", "description", "features", "sep", "delimiter"}
"""Fields of a dataset's configuration that do not change how its files are read here, or that are obeyed."""
LONGEST_CUT = 1024
"""Bytes of the documents of text files, about. Nobody knows how long these files are: also of a short one, some
documents must be held out, and others be dealt out to each peer."""
GROUPED = 64
"""The row groups of Parquet files are sources of their own if there are fewer files than this."""


def dataset_builder(data: DatasetData, **config: Any) -> Any:
    """The datasets library's builder of a dataset, which knows its files; none of them is read yet.

    If the hub does not answer, the copy of an earlier time is used.

    Args:
        config: fields of its configuration that are not the dataset's own.

    Raises:
        DataError: the dataset can't be found, or is not safe to load.
    """
    import datasets

    datasets.disable_progress_bars()
    check_dataset(data.dataset)
    with _told(data):
        copy = _local_copy(data.dataset) if constants.HF_HUB_OFFLINE else None
        try:
            builder = datasets.load_dataset_builder(copy or data.dataset, data.subset, **config)
        except ConnectionError:
            if not (copy := _local_copy(data.dataset)):
                raise
            builder = datasets.load_dataset_builder(copy, data.subset, **config)
        files = builder.config.data_files or {}
        # The files of a copy are links into another folder of the same repository's cache.
        cache = Path(copy).parent.parent if copy else None
        check_files(data.dataset, (file for split in files.values() for file in split), cache)
        return builder


def _local_copy(name: str) -> str | None:
    """The folder where the hub's cache has files of a dataset; None if it has none, or the name is that of a folder."""
    with contextlib.suppress(OSError, ValueError):
        if not is_folder(name):
            return snapshot_download(name, repo_type="dataset", local_files_only=True)
    return None


def is_here(builder: Any, data: DatasetData) -> bool:
    """Whether all that is read of a dataset is on this machine already."""
    files = places_of(builder, data)
    return all(map(_is_cached, files)) if files else Path(builder.cache_dir).is_dir()


def places_of(builder: Any, data: DatasetData) -> list[str]:
    """The files that are fetched to read a dataset: those of its split, or of all splits if the library prepares it."""
    known = builder.config.data_files or {}
    alone = data.split in known and (data.streaming or _files(builder, data.split) is not None)
    return [str(file) for split in ([data.split] if alone else known) for file in known[split]]


def _is_cached(place: str) -> bool:
    if not place.startswith("hf://"):
        return True
    found: Any = HfFileSystem().resolve_path(place)
    known = try_to_load_from_cache(found.repo_id, found.path_in_repo, revision=found.revision, repo_type="dataset")
    return isinstance(known, str)


def table_sources(data: DatasetData, columns: Iterable[str]) -> list[Source]:
    """The sources of a dataset that is read as a whole; what is not here yet is downloaded.

    Args:
        columns: those that will be read.

    Raises:
        DataError: it can't be found or downloaded, has no such split, or is not safe to load.
    """
    import datasets

    builder, files = _found(data, columns)
    with _told(data):
        if files is None:
            builder.download_and_prepare()
            return [LibraryRows(data.dataset, builder.as_dataset(split=data.split), False)]
        fetched = datasets.DownloadManager(dataset_name=builder.name).download([file.place for file in files])
        return [dataclasses.replace(file, place=place) for file, place in zip(files, fetched, strict=True)]


def stream_sources(data: DatasetData, columns: Iterable[str]) -> list[Source]:
    """The sources of a dataset that is read during training.

    Args:
        columns: those that will be read.

    Raises:
        DataError: it can't be found, has no such split, or is not safe to load.
    """
    builder, files = _found(data, columns)
    with _told(data):
        if files is None:
            stream = builder.as_streaming_dataset(split=data.split)
            shards = [stream.shard(stream.num_shards, at) for at in range(stream.num_shards)]
            return [LibraryRows(data.dataset, shard, not is_folder(data.dataset)) for shard in shards]
        if len(files) >= GROUPED or any(file.form != "parquet" for file in files):
            return list(files)
        groups = [(file, group) for file in files for group in range(row_groups(file.place, file.name))]
        return [dataclasses.replace(file, group=group) for file, group in groups]


def _found(data: DatasetData, columns: Iterable[str]) -> tuple[Any, list[File] | None]:
    """The builder of a dataset, and the files of its split; None if the library must read them."""
    builder = dataset_builder(data)
    with _told(data):
        files = _files(builder, data.split)
    if files is None and builder.name == "csv":  # a cell that holds NA, null or 007 is that word
        builder = dataset_builder(data, converters=dict.fromkeys(columns, str), keep_default_na=False)
    return builder, files


def _files(builder: Any, split: str) -> list[File] | None:
    """The files of a split; None if the library must read them: another format, or a part of a split."""
    config, known = builder.config, builder.config.data_files or {}
    form = FORMS.get(builder.name)
    if form is None or split not in known or not _is_plain(config):
        return None
    separator = getattr(config, "delimiter", None) or getattr(config, "sep", ",")
    if form == "csv" and separator not in (",", "\t"):
        return None
    form = "tsv" if separator == "\t" else form
    return [File(str(place), _short(str(place)), form, longest=LONGEST_CUT) for place in known[split]]


def _is_plain(config: Any) -> bool:
    """Whether a dataset's own description leaves the library's way of reading its files as it is."""
    usual = type(config)()
    fields = (field.name for field in dataclasses.fields(config) if field.name not in _FREE)
    return all(getattr(config, name) == getattr(usual, name) for name in fields)


def _short(place: str) -> str:
    """A file's name for messages: its path on the hub or on this machine."""
    return re.sub(r"^hf://datasets/([^@]*)@[^/]*/", r"\1/", place)


@contextlib.contextmanager
def _told(data: DatasetData) -> Iterator[None]:
    """Turn what the datasets library raises into a DataError."""
    with loading("dataset", data.dataset, "check name, subset and split"):
        try:
            yield
        except Exception as error:
            if "scripts are no longer supported" in str(error):
                refuse_script(data.dataset)
            raise
