"""p2ptrain bootstrap"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli import options as o


def bootstrap(
    invite: Annotated[str | None, typer.Argument(help="Invite of a swarm to help; without one a new swarm.")] = None,
    home: o.Home = None,
    identity: o.IdentityFile = None,
    listen: o.Listen = None,
    announce: o.Announce = None,
    metrics: Annotated[
        str | None,
        typer.Option(envvar="P2PTRAIN_METRICS", help="HOST:PORT for /metrics (Prometheus) and /healthz."),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(envvar="P2PTRAIN_LOG", help="File for the log, rotated at 10 MB [default: standard output]."),
    ] = None,
    json_lines: o.Json = False,
) -> None:
    """Give newcomers a first address, and a relay to those behind NAT; trains nothing."""
    from p2ptrain.lean import spare_torch

    spare_torch()  # before anything imports hivemind
    from p2ptrain.bootstrap import BootstrapOptions, run_bootstrap
    from p2ptrain.state.home import default_home

    network = o.node_config(listen, announce, o.swarm_of(invite))
    run_bootstrap(BootstrapOptions(home or default_home(), identity, network, metrics, log, json_lines))
