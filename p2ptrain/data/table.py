"""A table of text with random access, in a file that only this process knows and that is mapped into memory."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from p2ptrain.data.cells import Cells, Columns, Fault
from p2ptrain.data.formats import TEXT
from p2ptrain.data.rows import BrokenOff, unreadable
from p2ptrain.data.source import File, Source
from p2ptrain.data.tally import Tally
from p2ptrain.errors import DataError
from p2ptrain.text import reason_of

CHUNK_ROWS = 4096


class Rows(Protocol):
    """Rows with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: int, /) -> Cells: ...

    def __iter__(self) -> Iterator[Cells]: ...


class Table:
    """All rows of some sources that can be used."""

    def __init__(self, sources: Sequence[Source], columns: Columns, most_left_out: float) -> None:
        """Read every row once.

        Raises:
            DataError: a source can't be read or lacks a column, too many rows can't be used, or the disk is full.
        """
        self.tally = Tally(most_left_out)
        self._names = [source.name for source in sources]
        self.is_text = all(isinstance(source, File) and source.form == TEXT for source in sources)
        """Whether the rows are the documents of text files."""
        self._begins: list[int] = []
        self._numbers = array("q")
        self._rows = _written(self._read(sources, columns), list(columns))
        self.tally.check()

    def _read(self, sources: Sequence[Source], columns: Columns) -> Iterator[Cells]:
        for source in sources:
            self._begins.append(len(self._numbers))
            try:
                for number, row in source.rows(columns, self.tally):
                    if isinstance(row, Fault):
                        self.tally.leave_out(row, f"{source.name}, row {number}")
                        continue
                    self.tally.use(row)
                    self._numbers.append(number)
                    yield row
            except BrokenOff as broken:
                raise unreadable(broken) from None

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def __getitem__(self, at: int) -> Cells:
        return {name: self._rows[name][at].as_py() for name in self._rows.column_names}

    def __iter__(self) -> Iterator[Cells]:
        for batch in self._rows.to_batches(max_chunksize=CHUNK_ROWS):
            yield from batch.to_pylist()

    def where(self, at: int) -> str:
        """File and row of a row, for messages."""
        name = self._names[bisect.bisect_right(self._begins, at) - 1]
        return f"{name}, row {self._numbers[at]}"


def _written(rows: Iterator[Cells], columns: Sequence[str]) -> Any:
    """Write rows to a file without a name, and map it into memory as a pyarrow Table."""
    import pyarrow

    schema = pyarrow.schema([(column, pyarrow.large_string()) for column in columns])
    handle, path = tempfile.mkstemp(prefix="p2ptrain-", suffix=".arrow", dir=_cache())
    try:
        with os.fdopen(handle, "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
            while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
                writer.write_batch(pyarrow.RecordBatch.from_pylist(chunk, schema))
        return pyarrow.ipc.open_file(pyarrow.memory_map(path)).read_all()
    except OSError as error:
        what, step = "can't keep the data on disk", "make room, or set HF_HOME to a folder on another disk"
        raise DataError(what, f"{Path(path).parent}: {reason_of(error)}", step) from None
    finally:
        Path(path).unlink()  # the map keeps it until this process ends


def _cache() -> str | None:
    """The folder where the datasets library keeps data, if it can be written; None: that for temporary files."""
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return str(folder) if os.access(folder, os.W_OK) else None
