"""p2ptrain replay RUN_DIR"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli import options as o
from p2ptrain.errors import UsageError
from p2ptrain.peer import Volunteer


@o.takes_volunteer("model")
def replay(
    run_dir: o.RunDir,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AUTHOR:COUNT",
            help="Apply the first COUNT records of this author (the ending of a peer id), and no records of authors "
            "that are not named; repeatable.",
            show_default="all records",
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Apply the records that had arrived by this local time, e.g. 2026-11-21T18:30."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="New folder to export the state to.")] = None,
    *,
    volunteer: Volunteer,
) -> None:
    """Rebuild a past state of a one-byte run from its logs.

    Prints the digest of the state.
    """
    from p2ptrain.commands.replay import replay as run

    if to and at:
        raise UsageError(
            "--to and --at contradict each other", "each names a state of its own", "give only one of them"
        )
    run(o.run_folder(run_dir), tuple(to or ()), at, out, volunteer.model)
