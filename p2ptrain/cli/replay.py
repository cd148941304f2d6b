"""p2ptrain replay RUN_DIR"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from p2ptrain.caches import provide_caches
from p2ptrain.cli import options as o
from p2ptrain.errors import UsageError
from p2ptrain.peer import Volunteer

TO = (
    "Number of first records to apply from a peer, which the ending of its id names; peers that are not named count 0; "
    "repeatable."
)


@o.takes_volunteer("model")
def replay(
    run_dir: o.RunDir,
    to: Annotated[
        list[str] | None,
        o.option("--to", "PEER:RECORDS", TO, "all records"),
    ] = None,
    at: Annotated[
        str | None, o.option("--at", "TIME", "Apply what had arrived here by this local time, e.g. 2026-11-21T18:30.")
    ] = None,
    out: Annotated[Path | None, o.option("--out", "FOLDER", "New folder to export the state to.")] = None,
    *,
    volunteer: Volunteer,
) -> None:
    """Rebuild a past state of a one-byte run from its logs.

    Prints the digest of the state.
    """
    provide_caches()
    from p2ptrain.commands.replay import replay as run

    if to and at:
        what = "--to and --at contradict each other"
        raise UsageError(what, "each names a state of its own", "give only one of them")
    run(o.run_folder(run_dir), tuple(to or ()), at, out, volunteer.model)
