"""p2ptrain verify RUN_DIR|EXPORT"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from p2ptrain.caches import provide_caches
from p2ptrain.cli import options as o


def verify(
    target: Annotated[Path, o.argument("RUN_DIR|EXPORT", "Name or folder of a run, or a folder that `export` wrote.")],
    base: Annotated[
        int | None,
        o.option("--from", "HEIGHT", "Height of the snapshot at which the replay begins.", "the oldest one", min=0),
    ] = None,
    run_dir: Annotated[
        Path | None,
        o.option("--run", "RUN_DIR", "Name or folder of the run whose ledger must hold the export's state."),
    ] = None,
    json_lines: o.Json = False,
) -> None:
    """Check every digest and signature in a folder.

    Also replays the ledger of a run.
    """
    provide_caches()
    from p2ptrain.commands.verify import verify as run

    run(o.run_folder(target), base, None if run_dir is None else o.run_folder(run_dir), json_lines)
