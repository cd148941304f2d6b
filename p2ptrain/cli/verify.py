"""p2ptrain verify RUN_DIR|EXPORT"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli import options as o


def verify(
    target: Annotated[Path, typer.Argument(help="A run's name or folder, or a folder that `export` wrote.")],
    base: Annotated[
        int | None,
        typer.Option("--from", min=0, help="Height of the snapshot to replay from [default: the oldest one]."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run", help="Name or folder of the run whose ledger an export is held against.")
    ] = None,
    json_lines: o.Json = False,
) -> None:
    """Check every digest and signature of a folder again, and replay its ledger."""
    from p2ptrain.commands.verify import verify as run

    run(o.run_folder(target), base, None if run_dir is None else o.run_folder(run_dir), json_lines)
