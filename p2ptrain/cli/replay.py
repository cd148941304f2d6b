"""p2ptrain replay RUN_DIR"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli import options as o


def replay(
    run_dir: Annotated[Path, typer.Argument(help="A one-byte run's name, or the folder that the peer printed.")],
    to: Annotated[
        list[str] | None,
        typer.Option(help="AUTHOR:INDEX, so many records of a peer; repeatable, of others none [default: all]."),
    ] = None,
    at: Annotated[str | None, typer.Option(help="What had arrived here by this time, e.g. 2026-11-21T18:30.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to export the state to.")] = None,
    model: o.Model = None,
) -> None:
    """Rebuild any past state of a one-byte run from its logs."""
    from p2ptrain.commands.replay import replay as run

    if to and at:
        raise typer.BadParameter("give --to or --at, not both")
    run(o.run_folder(run_dir), tuple(to or ()), at, out, model)
