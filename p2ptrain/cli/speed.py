"""p2ptrain speed RUN"""

from __future__ import annotations

from typing import Annotated

import typer

from p2ptrain.cli import options as o


def speed(
    run: Annotated[str, typer.Argument(help="A recipe's name or a TOML file.")],
    seconds: Annotated[float, typer.Option(min=1.0, help="How long to measure.")] = 20.0,
    device: o.Device = "auto",
    batch_size: o.BatchSize = "8",
    threads: Annotated[
        int | None, typer.Option(envvar="P2PTRAIN_THREADS", min=1, help="CPU threads [default: one per core].")
    ] = None,
    autocast: o.Autocast = False,
    compile_model: o.Compile = False,
    model: o.Model = None,
    data: o.Data = None,
    json_lines: o.Json = False,
) -> None:
    """Measure how fast this machine trains a run alone, without any network."""
    from p2ptrain.commands.speed import measure_speed
    from p2ptrain.run import load_spec

    local = o.local_options(device, batch_size, autocast, compile_model, model, data)
    measure_speed(load_spec(run), local, threads, seconds, json_lines)
