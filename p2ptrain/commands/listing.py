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
    """Print `facts` as JSON lines if `json_lines`, else `table` on a terminal, else `lines`.

    Args:
        table: None if there is nothing to show on a terminal.
        nothing: what people read if there are no lines.
    """
    if json_lines:
        for fact in facts:
            print(json.dumps(fact))
    elif table is not None and sys.stdout.isatty():
        Console().print(table)
    else:
        print("\n".join(lines) or nothing)


def print_rows(
    json_lines: bool,
    facts: Iterable[Mapping[str, object]],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    nothing: str,
) -> None:
    """`print_list` for rows of cells, which a pipe gets as column=cell."""
    lines = ["  ".join(f"{column}={cell or '–'}" for column, cell in zip(columns, row, strict=True)) for row in rows]
    print_list(json_lines, facts, table_of(columns, rows) if rows else None, lines, nothing)


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for a terminal."""
    table = Table(*columns, header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))  # rich would read the brackets of a plain string as markup
    return table
