"""How a command prints a list: JSON lines for programs, a table on a terminal, plain lines in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_list(
    json_lines: bool, facts: Iterable[Mapping[str, object]], table: Table | None, lines: Sequence[str], nothing: str
) -> None:
    """Print the facts if `json_lines` (bytes become hexadecimal), else the table on a terminal (if there is one), else
    the lines, or the text `nothing` if there are none."""
    if json_lines:
        for fact in facts:
            print(json.dumps(fact, default=bytes.hex))
    elif table is not None and sys.stdout.isatty():
        Console().print(table)
    else:
        print("\n".join(lines) or nothing)


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for a terminal."""
    table = Table(*columns, header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))  # rich would read the brackets of a plain string as markup
    return table


def lines_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The same rows for a pipe: column=cell."""
    return ["  ".join(f"{column}={cell or '–'}" for column, cell in zip(columns, row, strict=True)) for row in rows]
