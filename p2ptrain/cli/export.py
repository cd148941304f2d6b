"""p2ptrain export RUN_DIR OUT"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli import options as o


def export(
    run_dir: Annotated[Path, typer.Argument(help="The run's name, or the folder that the peer printed at its start.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; transformers' from_pretrained loads it.")],
    at: Annotated[
        int | None,
        typer.Option(min=0, help="Height to export; as far back as the ledger reaches [default: newest]."),
    ] = None,
    model: o.Model = None,
) -> None:
    """Write the run's weights as a transformers folder."""
    from p2ptrain.commands.export import export_run

    print(export_run(o.run_folder(run_dir), out, model, at))
