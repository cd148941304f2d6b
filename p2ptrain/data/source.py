"""Sources of rows: a file, a row group of one, or a dataset that the datasets library reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from p2ptrain.data.cells import Columns, cells_of
from p2ptrain.data.formats import COMPRESSED
from p2ptrain.data.rows import LONGEST_DOCUMENT, BrokenOff, Rows, Take, check_columns, every, read_rows
from p2ptrain.data.tally import Tally


class Source(Protocol):
    """Rows in an order that is always the same."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def is_remote(self) -> bool:
        """Whether each reading fetches it from another machine."""

    @property
    def bytes(self) -> int | None:
        """About how much text it has, if that is known without reading it."""

    def rows(self, columns: Columns, tally: Tally, take: Take = every) -> Rows:
        """Read it from its beginning; see `read_rows`."""


@dataclass(frozen=True, slots=True)
class File:
    """One file."""

    place: str
    """Path or URL."""
    name: str
    form: str
    """A value of `formats.TABLES`, or "text"."""
    group: int | None = None
    """Of a Parquet file: this row group alone."""
    longest: int = LONGEST_DOCUMENT
    """Bytes of a text file's documents, about."""

    @property
    def is_remote(self) -> bool:
        return "://" in self.place

    @property
    def bytes(self) -> int | None:
        plain = not self.is_remote and self.group is None and not self.place.endswith(COMPRESSED)
        return Path(self.place).stat().st_size if plain else None

    def rows(self, columns: Columns, tally: Tally, take: Take = every) -> Rows:
        return read_rows(self.place, self.name, self.form, columns, tally, take, self.group, self.longest)


@dataclass(frozen=True, slots=True)
class LibraryRows:
    """Rows of a dataset in a format that the datasets library alone reads."""

    name: str
    dataset: Any
    is_remote: bool
    bytes: int | None = None

    def rows(self, columns: Columns, tally: Tally, take: Take = every) -> Rows:
        names = self.dataset.column_names
        check_columns(self.name, columns, list(next(iter(self.dataset), {})) if names is None else names)
        selected: Iterable[dict[str, Any]] = self.dataset.select_columns(list(columns))
        number = 0
        try:
            for number, values in enumerate(selected, 1):
                if take(number):
                    yield number, cells_of(values, columns)
        except Exception as error:
            raise BrokenOff(self.name, number, error) from error
