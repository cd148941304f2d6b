"""`p2ptrain history`: what a run folder knows of the run so far."""

from __future__ import annotations

import json
from pathlib import Path

from rich import table
from rich.console import Console

from p2ptrain.method import Table
from p2ptrain.peer.methods import method_of
from p2ptrain.state import RunFolder


def history(run_dir: Path, json_lines: bool) -> None:
    """Print who contributed what and when, what was taken back, and where others were when they were last heard.

    Raises:
        StorageError: no run folder.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        found = method_of(folder.spec).history(folder)
    if json_lines:
        for fact in found.facts:
            print(json.dumps(fact))
        return
    console = Console()
    for part in found.shown:
        console.print(_drawn(part) if isinstance(part, Table) else part, highlight=False)


def _drawn(part: Table) -> table.Table:
    drawn = table.Table(*part.columns)
    for row in part.rows:
        drawn.add_row(*row)
    return drawn
