"""Where text comes from: Python's own library, files, or a dataset; one document at a time.

The hash of its content decides whether a document is held out. So every peer that reads this text leaves it out of
training, wherever the text comes from.
"""

from __future__ import annotations

import contextlib
import glob
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3

from p2ptrain.errors import DataError, SpecError
from p2ptrain.run import RunSpec
from p2ptrain.run.spec import CustomData, DatasetData, FilesData, StdlibData
from p2ptrain.tasks.trust import check_dataset, check_files, is_folder, refuse_script
from p2ptrain.text import first_line

TextData = StdlibData | FilesData | DatasetData

TABLES = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
LONGEST_DOCUMENT = 64 * 1024
"""Bytes. Longer files are cut at line ends, so that a part of one large file can be held out."""
_NOT_LIBRARY = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"})


def text_data(spec: RunSpec) -> TextData:
    """Where a run's text comes from.

    Raises:
        SpecError: the founder's own program makes model and data.
    """
    if spec.is_custom or isinstance(spec.data, CustomData):  # the latter for the type checker
        raise SpecError(
            "this run's model and data are made by a program of its founder",
            "its spec says 'custom'",
            "join it from that program with p2ptrain.StreamingDiLoCo, as the README shows",
        )
    return spec.data


def own_files(spec: RunSpec) -> tuple[str, ...]:
    """Paths on each volunteer's machine that the spec names; none if the text comes from elsewhere."""
    if isinstance(spec.data, DatasetData):
        return (spec.data.dataset,) if is_folder(spec.data.dataset) else ()
    return spec.data.paths if isinstance(spec.data, FilesData) else ()


def is_held_out(text: str, fraction: float) -> bool:
    """Whether this document belongs to the held-out split."""
    return draw_of(text) < fraction * 2**64


def draw_of(text: str) -> int:
    """A number of 64 bits that depends on the content only. Documents with the lowest numbers are held out."""
    return int.from_bytes(blake3(text.encode("utf-8", errors="replace")).digest()[:8], "big")


def stdlib_documents() -> list[str]:
    """The .py files of this Python's standard library, without its tests.

    Raises:
        DataError: this Python has no library in source form.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path for path in root.rglob("*.py") if not _NOT_LIBRARY & set(path.relative_to(root).parts))
    documents = [text for path in paths if (text := path.read_text(encoding="utf-8", errors="replace"))]
    if len(documents) < 20:
        raise DataError(
            "this Python has no standard library in source form",
            f"{root} holds {len(documents)} .py files",
            "use another Python, or a run with another data.source",
        )
    return documents


def text_documents(paths: Sequence[Path]) -> list[str]:
    """Read UTF-8 files; long ones are cut at line ends into documents of about `LONGEST_DOCUMENT` bytes.

    Raises:
        DataError: a file can't be read, or all are empty.
    """
    documents: list[str] = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise DataError(f"can't read {path}", error.strerror or str(error), "check the path") from None
        documents.extend(_cut(text))
    if not any(documents):
        raise DataError("the data files are empty", ", ".join(map(str, paths[:3])), "name files with text in them")
    return documents


def _cut(text: str) -> Iterator[str]:
    part: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        part.append(line)
        size += len(line)
        if size >= LONGEST_DOCUMENT:
            yield "".join(part)
            part, size = [], 0
    if part:
        yield "".join(part)


def expand(patterns: Sequence[str]) -> list[Path]:
    """Find the files that paths, folders and patterns (*, **) name, sorted.

    Raises:
        DataError: one of them matches no file.
    """
    found: list[Path] = []
    for pattern in patterns:
        names = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207  (Path.glob: no absolute)
        matches = [Path(name) for name in sorted(names)]
        files = [file for match in matches for file in ([match] if match.is_file() else sorted(match.rglob("*")))]
        files = [file for file in files if file.is_file()]
        if not files:
            why = "the run reads files of each volunteer's machine"
            raise DataError(f"no file matches {pattern!r}", why, "name yours with --data")
        found.extend(files)
    return list(dict.fromkeys(found))


def open_table(data: FilesData, paths: Sequence[Path], columns: Sequence[str] = ()) -> Any:
    """Open local tables as one memory-mapped dataset with these columns, or the text column alone.

    Raises:
        DataError: the files are of different kinds, can't be read, or lack one of the columns.
    """
    import datasets

    datasets.disable_progress_bars()
    kinds = {TABLES.get(path.suffix.lower()) for path in paths}
    kind = kinds.pop()
    if kinds or kind is None:
        why = "there are tables and text, or two kinds of tables"
        raise DataError("the data files are of different kinds", why, "name files of one kind")
    try:
        table = datasets.load_dataset(kind, data_files=[str(path) for path in paths], split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        why = first_line(error.__cause__ or error)
        raise DataError(f"can't read {paths[0]}", why, f"is it really {kind}?") from None
    return _checked(table, columns, data, str(paths[0]))


def dataset_builder(data: DatasetData) -> Any:
    """The datasets library's builder of a dataset, which knows its files; none of them is read yet.

    Raises:
        DataError: the dataset can't be found, or is not safe to load.
    """
    import datasets

    datasets.disable_progress_bars()
    check_dataset(data.dataset)
    with _told(data):
        builder = datasets.load_dataset_builder(data.dataset, data.subset)
        files = builder.config.data_files or {}
        check_files(data.dataset, (file for split in files.values() for file in split))
        return builder


def open_dataset(data: DatasetData, columns: Sequence[str] = ()) -> Any:
    """Open a dataset (name on the hub, or folder) with these columns, or the text column alone.

    Raises:
        DataError: it can't be found or read, has no such column, or is not safe to load.
    """
    builder = dataset_builder(data)
    with _told(data):
        if data.streaming:
            found = builder.as_streaming_dataset(split=data.split)
        else:
            builder.download_and_prepare()
            found = builder.as_dataset(split=data.split)
    return _checked(found, columns, data, data.dataset)


@contextlib.contextmanager
def _told(data: DatasetData) -> Iterator[None]:
    """Turn what the datasets library raises into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # malformed YAML, JSON, Arrow, … of a stranger: each fails in its own way
        if "scripts are no longer supported" in str(error):
            refuse_script(data.dataset)
        next_step = "check name, subset and split, and the connection to the hub"
        raise DataError(f"can't load the dataset {data.dataset!r}", first_line(error), next_step) from None


def _checked(table: Any, wanted: Sequence[str], data: FilesData | DatasetData, where: str) -> Any:
    """Check the columns: a CSV in the wrong format loads without an error, but with odd column names."""
    columns = table.column_names
    if columns is None:  # a stream whose features are not declared
        columns = list(next(iter(table), {}))
    read = list(wanted or (data.text_column,))
    for column in read:
        if column not in columns:
            raise DataError(
                f"{where} has no column {column!r}",
                f"its columns are: {', '.join(map(repr, columns))}",
                "name another column in [task]" if wanted else "set data.text_column",
            )
    return table.select_columns(read)
