"""p2ptrain history RUN_DIR"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli import options as o


def history(
    run_dir: Annotated[Path, typer.Argument(help="The run's name, or the folder that the peer printed at its start.")],
    json_lines: o.Json = False,
) -> None:
    """Show a run's commits, who contributed how much, and which branches were left."""
    from p2ptrain.commands.history import history as run

    run(o.run_folder(run_dir), json_lines)
