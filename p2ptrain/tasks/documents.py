"""Where text comes from: Python's own library, files, or a dataset; one document at a time.

The hash of its content decides whether a document is held out. So every peer that reads this text leaves it out of
training, wherever the text comes from.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from blake3 import blake3

from p2ptrain.data.cells import Columns, Kind
from p2ptrain.data.files import Found, find_files, one_format
from p2ptrain.data.formats import TEXT
from p2ptrain.data.library import table_sources
from p2ptrain.data.rows import LONGEST_DOCUMENT
from p2ptrain.data.source import File, Source
from p2ptrain.data.table import Table
from p2ptrain.data.trust import is_folder
from p2ptrain.errors import DataError, SpecError
from p2ptrain.run import RunSpec
from p2ptrain.run.spec import CustomData, DatasetData, FilesData, StdlibData
from p2ptrain.tasks.local import LocalOptions
from p2ptrain.units import counted

DOCUMENTS, SHORTEST_CUT = 256, 1024
"""All text files together are cut into so many documents at least, of so many bytes at least."""

TextData = StdlibData | FilesData | DatasetData

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


def chosen_data(spec: RunSpec, options: LocalOptions) -> TextData:
    """Where the text comes from on this machine: from the volunteer's files, or from what the spec names."""
    data = text_data(spec)
    if not options.data:
        return data
    fields = data.model_dump(include=set(FilesData.model_fields) - {"source", "paths"})
    return FilesData(source="files", paths=options.data, **fields)


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


def open_table(data: FilesData | DatasetData, columns: Columns) -> Table:
    """Read all rows of files or of a dataset.

    Raises:
        DataError: they can't be found or read, lack a column, or too many rows can't be used.
    """
    if isinstance(data, DatasetData):
        return Table(table_sources(data, columns), columns, data.max_left_out)
    found = find_files(data.paths)
    if Kind.TEXT not in columns.values() and one_format(found.files) == TEXT:
        why = "the task reads rows with columns"
        raise DataError(f"{found.files[0]} is no table", why, "name .jsonl, .csv or .parquet files")
    table = Table(file_sources(found), columns, data.max_left_out)
    if found.passed_over:
        names = ", ".join(path.name for path in found.passed_over[:3])
        count = counted(len(found.passed_over), "file")
        table.tally.notes.append(f"{count} not read, because they only describe the data: {names}")
    return table


def file_sources(found: Found) -> list[Source]:
    """Files of this machine. Texts are cut into some hundreds of documents at least, so that some are held out.

    Raises:
        DataError: they are of different kinds.
    """
    form, in_all = one_format(found.files), sum(path.stat().st_size for path in found.files)
    longest = min(LONGEST_DOCUMENT, max(SHORTEST_CUT, in_all // DOCUMENTS))
    return [File(str(path), path.name, form, longest=longest) for path in found.files]
