"""Read the rows of one file, only those columns that a task reads. A row that can't be used is a `Fault`, not an error.

Rows count from 1: those of a CSV below its header, those of a JSONL file as its lines. The rows of a text file are its
documents, which are cut at line ends.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from p2ptrain.causes import cause_of
from p2ptrain.data.cells import REPLACEMENT, Cells, Columns, Fault, cells_of, without_surrogates
from p2ptrain.data.formats import HEAD_BYTES, PARQUET, compression_of, foreign
from p2ptrain.data.loading import hub_caches
from p2ptrain.data.opening import opened, opened_text
from p2ptrain.data.tally import Tally
from p2ptrain.errors import DataError

LONGEST_DOCUMENT = 64 * 1024
"""Bytes. Longer texts are cut at line ends, so that a part of one file can be held out."""
LONGEST_CELL = 2**26
"""Characters of a CSV's cell. A quote that is never closed swallows no more than that."""
BATCH_ROWS = 256
SEEN_ROWS, SHOWN_COLUMNS = 1000, 40
"""A column that none of so many rows has is no column of the file."""

Take = Callable[[int], bool]
"""Whether the row with this number is wanted. Others are passed over, without being read if the format allows that."""
Rows = Iterator[tuple[int, Cells | Fault]]


def every(number: int) -> bool:
    """All rows are wanted."""
    return True


_NOT_JSON = Fault("not a JSON object", "write one JSON object per line, or correct the broken lines")
_OPEN_QUOTE = Fault("in a cell whose quotes do not match", "close the quote, or double the quotes inside of cells")
_ZEROS = Fault("zero bytes, which no text has", "write the file again without them")
_RAGGED = Fault("not as many cells as the header", "correct these rows, or quote their commas")


class BrokenOff(Exception):
    """Reading a file has failed; `row` is the last that was read, and `cause` what the library raised."""

    def __init__(self, name: str, row: int, cause: Exception) -> None:
        super().__init__(f"{name}, after row {row}: {cause}")
        self.name, self.row, self.cause = name, row, cause


def unreadable(broken: BrokenOff) -> DataError:
    """The error for people."""
    where = f"after row {broken.row:,}" if broken.row else "at its beginning"
    cause = cause_of(broken.cause, "check that the file is whole and can be read", hub_caches())
    return DataError(f"can't read {broken.name}, {where}", *cause)


def read_rows(
    place: str,
    name: str,
    form: str,
    columns: Columns,
    tally: Tally,
    take: Take = every,
    group: int | None = None,
    longest: int = LONGEST_DOCUMENT,
) -> Rows:
    """Read a file.

    Args:
        place: path or URL.
        name: of the file, for messages.
        form: a value of `formats.TABLES`, or "text".
        tally: counts the characters, and those that were replaced.
        group: of a Parquet file: read this row group alone. Rows count from its first one.
        longest: bytes of a text file's documents, about.

    Yields:
        (number of the row, its cells or its fault).

    Raises:
        DataError: it is not what its name says, or has no such column.
        BrokenOff: reading fails.
    """
    reached = 0
    try:
        for number, row in _reader(place, name, form, columns, tally, take, group, longest):
            reached = number
            yield number, row
    except DataError:
        raise
    except Exception as error:  # each library and each file system fails in its own ways
        raise BrokenOff(name, reached, error) from error


def _reader(
    place: str, name: str, form: str, columns: Columns, tally: Tally, take: Take, group: int | None, longest: int
) -> Rows:
    if form == "parquet":
        yield from _parquet(place, name, columns, tally, take, group)
        return
    with opened_text(place, name) as file:
        decode = _Decoder(name, tally)
        match form:
            case "csv" | "tsv":
                yield from _csv(file, name, columns, decode, take, "\t" if form == "tsv" else ",")
            case "json" | "jsonl":
                yield from _chosen(_json(file, decode, take), name, columns, decode, take is every)
            case _:
                yield from _documents(file, columns, decode, take, longest)


class _Decoder:
    """Decodes UTF-8 and counts what it replaces."""

    def __init__(self, name: str, tally: Tally) -> None:
        self._name, self._tally = name, tally

    def __call__(self, raw: bytes, number: int) -> str:
        try:
            text, replaced = raw.decode(), 0
        except UnicodeDecodeError:
            text = raw.decode("utf-8", "replace")
            replaced = text.count(REPLACEMENT) - raw.count(REPLACEMENT.encode())
        self._tally.characters += len(text)
        self.count(replaced, number)
        return text

    def count(self, replaced: int, number: int) -> None:
        self._tally.replace(replaced, f"{self._name}, row {number}")


# Text ----------------------------------------------------------------------------------------------------------------


def _documents(file: io.BufferedReader, columns: Columns, decode: _Decoder, take: Take, longest: int) -> Rows:
    (column,) = columns
    for number, raw in enumerate(_pieces(file, longest), 1):
        if not take(number):
            continue
        if b"\0" in raw:
            yield number, _ZEROS
        else:
            yield number, {column: decode(raw, number).replace("\r\n", "\n").replace("\r", "\n")}


def _pieces(file: io.BufferedReader, longest: int) -> Iterator[bytes]:
    part: list[bytes] = []
    size = 0
    while line := file.readline(longest):
        if not line.endswith(b"\n"):  # a long line is cut between two characters
            while _follows(file.peek(1)[:1]):
                line += file.read(1)
        part.append(line)
        size += len(line)
        if size >= longest:
            yield b"".join(part)
            part, size = [], 0
    if part:
        yield b"".join(part)


def _follows(byte: bytes) -> bool:
    """Whether a byte of UTF-8 belongs to the character before it."""
    return bool(byte) and byte[0] & 0xC0 == 0x80


# JSON ----------------------------------------------------------------------------------------------------------------


def _json(file: io.BufferedReader, decode: _Decoder, take: Take) -> Iterator[tuple[int, Any]]:
    """(number, object or `Fault`) of JSON lines, or of one array."""
    if _first_letter(file) == b"[":
        values = json.loads(decode(file.read(), 1))
        yield from ((number, value) for number, value in enumerate(values, 1) if take(number))
        return
    for number, raw in enumerate(file, 1):
        if not take(number) or raw.isspace():
            continue
        try:
            yield number, json.loads(decode(raw, number))
        except (ValueError, RecursionError):
            yield number, _NOT_JSON


def _first_letter(file: io.BufferedReader) -> bytes:
    return file.peek(4096).lstrip()[:1]


def _chosen(rows: Iterable[tuple[int, Any]], name: str, columns: Columns, decode: _Decoder, are_all: bool) -> Rows:
    """The columns of each object. If these are all rows, one of the first ones must have each column."""
    seen: dict[str, None] = {}
    for count, (number, value) in enumerate(rows, 1):
        if isinstance(value, Fault) or not isinstance(value, dict):
            yield number, value if isinstance(value, Fault) else _NOT_JSON
            continue
        if count <= SEEN_ROWS:
            seen.update(dict.fromkeys(value))
        if count == SEEN_ROWS and are_all:
            check_columns(name, columns, list(seen))
        cells = cells_of(value, columns)
        if not isinstance(cells, Fault):
            for column, text in cells.items():
                cells[column], replaced = without_surrogates(text)
                decode.count(replaced, number)
        yield number, cells
    if seen and are_all:
        check_columns(name, columns, list(seen))


def check_columns(name: str, wanted: Iterable[str], found: Sequence[str]) -> None:
    """Check that a file has the columns that a task reads.

    Raises:
        DataError: it lacks one, or has it twice.
    """
    for column in wanted:
        if column not in found:
            shown = ", ".join(map(repr, found[:SHOWN_COLUMNS])) + (", …" if len(found) > SHOWN_COLUMNS else "")
            raise DataError(
                f"{name} has no column {column!r}",
                f"its columns are: {shown}",
                "set data.text_column, or the columns in [task], to one of them",
            )
        if found.count(column) > 1:
            raise DataError(
                f"{name} has several columns {column!r}", "nobody knows which is meant", "rename the others"
            )


# Tables --------------------------------------------------------------------------------------------------------------


def _csv(file: io.BufferedReader, name: str, columns: Columns, decode: _Decoder, take: Take, separator: str) -> Rows:
    csv.field_size_limit(LONGEST_CELL)
    lines = (io.StringIO(decode(raw, number), newline="") for number, raw in enumerate(file))  # cut at lone \r, too
    reader = csv.reader(itertools.chain.from_iterable(lines), delimiter=separator, strict=True)
    header = _header(reader, name, columns)
    check_columns(name, columns, header)
    places = {column: header.index(column) for column in columns}
    number, line = 0, reader.line_num
    while True:
        first, fault = number + 1, None
        try:
            if not (row := next(reader)):
                continue  # an empty line
            number += 1
            if len(row) != len(header):
                fault = _RAGGED
        except StopIteration:
            return
        except csv.Error as error:
            number += max(1, reader.line_num - line)  # all lines that an open quote has swallowed
            fault = _OPEN_QUOTE if number > first else Fault(f"not valid CSV: {error}", "correct these rows")
        finally:
            line = reader.line_num
        if fault is not None:
            yield from ((at, fault) for at in range(first, number + 1) if take(at))
        elif take(number):
            yield number, cells_of({column: row[place] or None for column, place in places.items()}, columns)


def _header(reader: Iterator[list[str]], name: str, columns: Columns) -> list[str]:
    try:
        header = next(filter(None, reader), None)
    except csv.Error as error:
        step = "write the names of the columns into its first line"
        raise DataError(f"{name} is not valid CSV", f"its first line: {error}", step) from None
    if header is None:
        raise DataError(f"{name} is empty", "a CSV file begins with the names of its columns", "name another file")
    [first, *others] = header
    between = next((each for each in (";", "\t", "|") if each in first), None)
    if not others and first not in columns and between is not None:
        step = "write it with commas between cells, or with tabs as a .tsv file"
        raise DataError(f"{name} is no CSV file", f"its cells are separated by {between!r}", step)
    return header


def _parquet(place: str, name: str, columns: Columns, tally: Tally, take: Take, group: int | None) -> Rows:
    import pyarrow.parquet

    with opened(place) as raw:
        if not (head := raw.read(HEAD_BYTES)).startswith(PARQUET):
            how = compression_of(head)
            what = f"compressed with {how}: unpack it first" if how else foreign(head) or "something else"
            raise DataError(f"{name} is not a Parquet file", f"it is {what if head else 'empty'}", "name another file")
        raw.seek(0)
        file = pyarrow.parquet.ParquetFile(raw)
        check_columns(name, columns, file.schema_arrow.names)
        decode, groups, number = _Decoder(name, tally), None if group is None else [group], 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=list(columns)):
            for at, values in enumerate(_values(batch, decode, number + 1), number + 1):
                if take(at):
                    yield at, cells_of(values, columns)
            number += len(batch)


def _values(batch: Any, decode: _Decoder, first: int) -> list[dict[str, Any]]:
    """The rows of a batch. Some writers put bytes into a column of text that are no UTF-8."""
    import pyarrow

    with contextlib.suppress(UnicodeDecodeError):
        found: list[dict[str, Any]] = batch.to_pylist()
        return found
    columns = {}
    for column in batch.column_names:
        values = batch[column].dictionary_decode() if hasattr(batch[column], "dictionary_decode") else batch[column]
        if values.type in (pyarrow.string(), pyarrow.large_string()):
            raw = values.cast(pyarrow.large_binary()).to_pylist()
            columns[column] = [None if cell is None else decode(cell, at) for at, cell in enumerate(raw, first)]
        else:
            columns[column] = values.to_pylist()
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def row_groups(place: str, name: str) -> int:
    """How many row groups a Parquet file has.

    Raises:
        DataError: it can't be read.
    """
    import pyarrow.parquet

    try:
        with opened(place) as raw:
            return int(pyarrow.parquet.ParquetFile(raw).num_row_groups)
    except Exception as error:  # as in `read_rows`
        raise unreadable(BrokenOff(name, 0, error)) from None
