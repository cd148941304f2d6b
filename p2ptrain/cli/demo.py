"""p2ptrain demo"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

from p2ptrain.cli import options as o


class Method(enum.StrEnum):
    DILOCO = "diloco"
    ONE_BYTE = "one-byte"


_RECIPES = {Method.DILOCO: "demo", Method.ONE_BYTE: "demo-one-byte"}


def demo(
    folder: Annotated[
        Path, o.option("--folder", "FOLDER", "Folder for its runs and the exported model; it is emptied first.")
    ] = Path("demo"),
    method: Annotated[Method, o.option("--method", "diloco|one-byte", "Training method to show.")] = Method.DILOCO,
    run: Annotated[
        str | None, o.option("--run", "RUN", "Recipe or TOML file to train.", "the method's own demo")
    ] = None,
    peers: Annotated[int, o.option("--peers", "N", "Number of peers to start.", min=1, max=16)] = 3,
    json_lines: o.Json = False,
) -> None:
    """Train a small model with several peers on this machine.

    Starts a bootstrap node and the peers, trains to the end and prints a summary.
    """
    from p2ptrain.commands.demo import run_demo

    run_demo(folder, run or _RECIPES[method], peers, json_lines)
