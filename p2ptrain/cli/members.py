"""p2ptrain members RUN_DIR"""

from __future__ import annotations

from p2ptrain.cli import options as o
from p2ptrain.lean import spare_torch


def members(run_dir: o.RunDir, json_lines: o.Json = False) -> None:
    """List the members of a private run, past ones too.

    Shows whose invite each member used, and when the membership ends.
    """
    spare_torch()  # before anything imports hivemind
    from p2ptrain.commands.members import show_members

    show_members(o.run_folder(run_dir), json_lines)
