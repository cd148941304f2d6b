"""p2ptrain members RUN_DIR"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli import options as o


def members(
    run_dir: Annotated[Path, typer.Argument(help="Name or folder of a private run.")], json_lines: o.Json = False
) -> None:
    """List who is in a private run, who was, by whose invite and until when."""
    from p2ptrain.lean import spare_torch

    spare_torch()  # before anything imports hivemind
    from p2ptrain.commands.invite import show_members

    show_members(o.run_folder(run_dir), json_lines)
