"""p2ptrain runs"""

from __future__ import annotations

from p2ptrain.cli import options as o
from p2ptrain.lean import spare_torch


def runs(bootstrap: o.Swarms = None, nodes: o.Nodes = None, json_lines: o.Json = False) -> None:
    """List the runs that are announced in a swarm."""
    spare_torch()  # before anything imports hivemind
    from p2ptrain.commands.runs import show_runs, swarms_to_look_in, warn

    show_runs(swarms_to_look_in(bootstrap or (), nodes, warn), json_lines)
