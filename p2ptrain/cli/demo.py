"""p2ptrain demo"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli import options as o


class Method(enum.StrEnum):
    DILOCO = "diloco"
    ONE_BYTE = "one-byte"


_RECIPES = {Method.DILOCO: "demo", Method.ONE_BYTE: "demo-one-byte"}


def demo(
    folder: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Folder for the demo's runs and the exported model; the demo empties it first."
        ),
    ] = Path("demo"),
    method: Annotated[Method, typer.Option(metavar="diloco|one-byte", help="Training method to show.")] = Method.DILOCO,
    run: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Recipe or TOML file to train.", show_default="the method's own demo"),
    ] = None,
    peers: Annotated[int, typer.Option(metavar="N", min=1, max=16, help="Number of peers to start.")] = 3,
    json_lines: o.Json = False,
) -> None:
    """Train a small model with several peers on this machine.

    Starts a bootstrap node and the peers, trains to the end and prints a summary.
    """
    from p2ptrain.commands.demo import run_demo

    run_demo(folder, run or _RECIPES[method], peers, json_lines)
