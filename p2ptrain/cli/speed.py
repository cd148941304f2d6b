"""p2ptrain speed RUN"""

from __future__ import annotations

from typing import Annotated

from p2ptrain.caches import provide_caches
from p2ptrain.cli import options as o
from p2ptrain.peer import Volunteer


@o.takes_volunteer("device", "batch_size", "threads", "autocast", "compile", "model", "data")
def speed(
    run: Annotated[str, o.argument("RUN", "Recipe or TOML file of the run.")],
    seconds: Annotated[float, o.option("--seconds", "SECONDS", "Time to measure.", min=1.0)] = 20.0,
    *,
    volunteer: Volunteer,
    json_lines: o.Json = False,
) -> None:
    """Measure how fast this machine trains a run.

    Uses no network.
    """
    provide_caches()
    from p2ptrain.commands.speed import measure_speed
    from p2ptrain.run import load_spec

    measure_speed(load_spec(run), volunteer.local, volunteer.threads, seconds, json_lines)
