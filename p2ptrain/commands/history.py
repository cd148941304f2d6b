"""`p2ptrain history`: who contributed to a run and when, as its run folder knows it."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from p2ptrain.commands.listing import table_of
from p2ptrain.method import Table
from p2ptrain.peer.methods import method_of
from p2ptrain.state import RunFolder


def history(run_dir: Path, json_lines: bool) -> None:
    """Print contributions, what was taken back, and the last known heights of other peers. Raises StorageError if
    `run_dir` is no run folder."""
    with RunFolder.open(run_dir, lock=False) as folder:
        found = method_of(folder.spec).history(folder)
    if json_lines:
        for fact in found.facts:
            print(json.dumps(fact))
        return
    for part in found.shown:
        Console().print(table_of(part.columns, part.rows) if isinstance(part, Table) else part, highlight=False)
