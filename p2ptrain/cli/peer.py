"""p2ptrain peer RUN"""

from __future__ import annotations

from typing import Annotated

import typer

from p2ptrain.cli import options as o


def peer(
    run: Annotated[str, typer.Argument(help="A recipe's name, a TOML file, or the folder of a run to resume.")],
    bootstrap: Annotated[
        str | None, typer.Option(envvar="P2PTRAIN_BOOTSTRAP", help="Invite of a swarm to start the run in.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Start a run that only those take part in whom you invite.")
    ] = False,
    home: o.Home = None,
    identity: o.IdentityFile = None,
    listen: o.Listen = None,
    announce: o.Announce = None,
    no_listen: o.NoListen = False,
    no_lan: o.NoLan = False,
    device: o.Device = "auto",
    batch_size: o.BatchSize = "8",
    threads: o.Threads = None,
    autocast: o.Autocast = False,
    compile_model: o.Compile = False,
    model: o.Model = None,
    data: o.Data = None,
    max_disk: o.MaxDisk = None,
    max_up: o.MaxUp = None,
    max_down: o.MaxDown = None,
    max_memory: o.MaxMemory = None,
    hours: o.HoursOption = None,
    pause_when: o.PauseWhen = None,
    name: o.Name = "",
    archive: o.Archive = False,
    json_lines: o.Json = False,
) -> None:
    """Start a run (and print the invite for others), or resume one."""
    from pathlib import Path

    from p2ptrain.monitor import make_reporter
    from p2ptrain.peer import run_peer
    from p2ptrain.run import recipes
    from p2ptrain.state.run import Run

    resumes = Path(run).is_dir() and run not in recipes()
    if resumes and private:
        raise typer.BadParameter("--private is for a run that begins: one that exists stays as it was founded")
    network = o.node_config(listen, announce, o.swarm_of(bootstrap), no_listen, no_lan)
    limits = o.limits_of(max_disk, max_up, max_down, archive)
    given = o.peer_options(
        home,
        identity,
        network,
        device,
        batch_size,
        threads,
        autocast,
        compile_model,
        model,
        data,
        max_memory,
        hours,
        pause_when,
        o.options_to_repeat(run),
    )

    def begin() -> Run:
        if resumes:
            return Run.resume(Path(run), config=network, identity=identity, limits=limits, name=name)
        return Run.found(
            run, config=network, home=given.home, identity=identity, limits=limits, name=name, private=private
        )

    run_peer(begin, given, make_reporter(json_lines))
