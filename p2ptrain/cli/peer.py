"""p2ptrain peer RUN"""

from __future__ import annotations

from typing import Annotated

import typer

from p2ptrain.caches import provide_caches
from p2ptrain.cli import options as o
from p2ptrain.errors import UsageError
from p2ptrain.paths import exists
from p2ptrain.peer import Volunteer


@o.takes_volunteer()
def peer(
    context: typer.Context,
    run: Annotated[str, o.argument("RUN", "Recipe or TOML file of a new run, or the folder of a run to resume.")],
    bootstrap: Annotated[
        str | None,
        o.option("--bootstrap", "INVITE", "Invite of the swarm to start the run in.", "a new swarm", env=True),
    ] = None,
    private: Annotated[
        bool, o.option("--private", None, "Start a private run: only people whom you invite can join.")
    ] = False,
    *,
    volunteer: Volunteer,
    json_lines: o.Json = False,
) -> None:
    """Start a run, or resume one.

    Prints the invite with which others join.
    """
    provide_caches(volunteer.home)
    from pathlib import Path

    from p2ptrain.monitor import make_reporter
    from p2ptrain.peer import run_peer
    from p2ptrain.run import recipes
    from p2ptrain.state.run import Run

    resumes = exists(run) and Path(run).is_dir() and run not in recipes()
    if resumes and private:
        why = "this run exists, and it stays as it was founded: private or public"
        raise UsageError(f"--private means nothing for {run}", why, "leave out --private, or start a new run with it")
    config, limits = volunteer.network(o.swarm_of(bootstrap)), volunteer.limits
    home, identity, name = volunteer.home, volunteer.identity, volunteer.name

    def begin() -> Run:
        if resumes:
            return Run.resume(run, config=config, identity=identity, limits=limits, name=name)
        return Run.found(run, config=config, home=home, identity=identity, limits=limits, name=name, private=private)

    run_peer(begin, volunteer, make_reporter(json_lines), o.typed_options(context))
