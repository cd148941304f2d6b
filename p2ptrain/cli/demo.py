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
    folder: Annotated[Path, typer.Option(help="Where its runs and the exported model go; emptied first.")] = Path(
        "demo"
    ),
    method: Annotated[Method, typer.Option(help="Which of the two demos.")] = Method.DILOCO,
    run: Annotated[str | None, typer.Option(help="Recipe or TOML file to train instead.")] = None,
    peers: Annotated[int, typer.Option(min=1, max=16, help="Peers to start.")] = 3,
    json_lines: o.Json = False,
) -> None:
    """Start a bootstrap node and peers on this machine, train to the end and sum up."""
    from p2ptrain.commands.demo import run_demo

    run_demo(folder, run or _RECIPES[method], peers, json_lines)
