"""p2ptrain join INVITE, p2ptrain join NAME"""

from __future__ import annotations

from typing import Annotated

import typer

from p2ptrain.cli import options as o


def join(
    invite: Annotated[
        str,
        typer.Argument(
            help="The p2ptrain:// link that a peer of the run printed; or the run's name as `p2ptrain runs` lists it, "
            "or the beginning of its id."
        ),
    ],
    bootstrap: o.Swarms = None,
    nodes: o.Nodes = None,
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
    """Take part in a run."""
    from p2ptrain.commands.runs import find_invite, is_name
    from p2ptrain.monitor import make_reporter
    from p2ptrain.peer import run_peer
    from p2ptrain.state.run import Run
    from p2ptrain.swarm import Invite

    parsed = None if is_name(invite) else Invite.parse(invite)
    network = o.node_config(listen, announce, (), no_listen, no_lan)
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
        o.options_to_repeat(invite),
    )
    reporter = make_reporter(json_lines)

    def begin() -> Run:
        found = parsed or find_invite(invite, bootstrap or (), nodes, reporter)
        return Run.join(found, config=network, home=given.home, identity=identity, limits=limits, name=name)

    run_peer(begin, given, reporter)
