"""p2ptrain bootstrap [INVITE]"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from p2ptrain.cli import options as o
from p2ptrain.lean import spare_torch
from p2ptrain.peer import Volunteer


@o.takes_volunteer("home", "identity", "listen", "announce")
def bootstrap(
    invite: Annotated[str | None, o.argument("INVITE", "Invite of the swarm to help.", "start a new swarm")] = None,
    *,
    volunteer: Volunteer,
    metrics: Annotated[
        str | None,
        o.option("--metrics", "HOST:PORT", "Where to serve /metrics (Prometheus) and /healthz.", env=True),
    ] = None,
    log: Annotated[
        Path | None,
        o.option("--log", "FILE", "Log file; a new one begins every 10 MB.", "standard output", env=True),
    ] = None,
    json_lines: o.Json = False,
) -> None:
    """Run a node through which newcomers find a swarm.

    It relays traffic for peers behind NAT, and it trains nothing.
    """
    spare_torch()  # before anything imports hivemind
    from p2ptrain.bootstrap import BootstrapOptions, run_bootstrap
    from p2ptrain.state.home import default_home

    network = volunteer.network(o.swarm_of(invite))
    home = volunteer.home or default_home()
    run_bootstrap(BootstrapOptions(home, volunteer.identity, network, metrics, log, json_lines))
