"""p2ptrain history RUN_DIR"""

from __future__ import annotations

from p2ptrain.cli import options as o


def history(run_dir: o.RunDir, json_lines: o.Json = False) -> None:
    """Show a run's commits, contributors and branches."""
    from p2ptrain.commands.history import history as run

    run(o.run_folder(run_dir), json_lines)
