"""Files with rows in them, in every format and compression."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2ptrain.data.cells import Cells, Columns, Fault, Kind, cells_of
from p2ptrain.data.files import one_format
from p2ptrain.data.rows import BrokenOff, Rows, Take, every, read_rows
from p2ptrain.data.source import File, Source
from p2ptrain.data.stream import Place, Stream
from p2ptrain.data.tally import Tally
from p2ptrain.run.spec import DatasetData

TEXT: Columns = {"text": Kind.TEXT}
ROWS = 1200
NAMES = [f"row {number}" for number in range(ROWS)]


def zstd(raw: bytes) -> bytes:
    import pyarrow

    return bytes(pyarrow.compress(raw, "zstd", asbytes=True))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda raw: gzip.compress(raw, mtime=0),  # the same bytes always: they are in names of tests
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstd,
}


def write_table(path: Path, rows: Sequence[dict[str, Any]], group: int | None = None) -> Path:
    """Write rows in the format that the file's name says; `group` rows are one row group of a Parquet file."""
    match path.suffix:
        case ".csv":
            import pandas

            pandas.DataFrame(list(rows)).to_csv(path, index=False)
        case ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=group)
        case ".json":
            path.write_text(json.dumps(list(rows)))
        case _:
            raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
            path.write_bytes(COMPRESS.get(path.suffix, bytes)(raw))
    return path


def written(path: Path, raw: str | bytes) -> Path:
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return path


def read(
    path: Path, columns: Columns = TEXT, tally: Tally | None = None, **how: Any
) -> list[tuple[int, Cells | Fault]]:
    """All rows of a file, with their numbers."""
    form = one_format([path])
    return list(read_rows(str(path), path.name, form, columns, tally or Tally(1.0), **how))


def texts(rows: Iterable[tuple[int, Cells | Fault]], column: str = "text") -> list[str]:
    """The texts of the rows that can be used."""
    return [row[column] for _, row in rows if not isinstance(row, Fault)]


def faults(rows: Iterable[tuple[int, Cells | Fault]]) -> dict[int, str]:
    """The numbers of the others, and why they can't be used."""
    return {number: row.reason for number, row in rows if isinstance(row, Fault)}


@dataclass
class Listed:
    """A source whose rows are in memory, and which fails once at each of these rows: before it is read."""

    texts: Sequence[str | None]
    name: str = "listed.jsonl"
    column: str = "text"
    is_remote: bool = False
    bytes: int | None = None
    fails: dict[int, Exception] = field(default_factory=dict)
    read: int = 0
    """How often it was read from its beginning."""

    def rows(self, columns: Columns, tally: Tally, take: Take = every) -> Rows:
        self.read += 1
        reached = 0
        for number, text in enumerate(self.texts, 1):
            if number in self.fails:
                raise BrokenOff(self.name, reached, self.fails.pop(number))
            if take(number):
                reached = number
                yield number, cells_of({self.column: text}, columns)


def listed(files: int, rows: Sequence[str] = NAMES) -> list[Listed]:
    """The rows dealt out to several sources."""
    return [Listed(rows[at::files], f"{at}.jsonl") for at in range(files)]


def stream(sources: Sequence[Source], seed: int = 1, place: Place | None = None, most: float = 0.05) -> Stream:
    """A stream of texts that begins, or goes on at a place."""
    made = Stream(sources, TEXT, seed, most)
    if place is not None:
        made.go_to(place)
    return made


def stream_of(*paths: Path, seed: int = 1, most_left_out: float = 0.05, columns: Columns = TEXT) -> Stream:
    sources = [File(str(path), path.name, one_format([path])) for path in paths]
    return Stream(sources, columns, seed, most_left_out)


def drawn(stream: Stream, count: int) -> list[str]:
    """The texts of the next rows."""
    return [stream.row()["text"] for _ in range(count)]


def dataset(folder: Path | str, streaming: bool = True, **fields: Any) -> DatasetData:
    return DatasetData(source="dataset", dataset=str(folder), streaming=streaming, **fields)
