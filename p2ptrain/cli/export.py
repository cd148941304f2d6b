"""p2ptrain export RUN_DIR OUT"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from p2ptrain.caches import provide_caches
from p2ptrain.cli import options as o
from p2ptrain.peer import Volunteer


@o.takes_volunteer("model")
def export(
    run_dir: o.RunDir,
    out: Annotated[Path, o.argument("OUT", "New folder for the model; transformers' from_pretrained loads it.")],
    at: Annotated[
        int | None,
        o.option("--at", "HEIGHT", "Height to export; in a one-byte run, the number of records.", "newest", min=0),
    ] = None,
    *,
    volunteer: Volunteer,
) -> None:
    """Write a run's weights as a transformers folder."""
    provide_caches()
    from p2ptrain.commands.export import export_run

    print(export_run(o.run_folder(run_dir), out, volunteer.model, at))
