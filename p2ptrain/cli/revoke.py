"""p2ptrain revoke RUN_DIR PEER"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli import options as o


def revoke(
    run_dir: Annotated[Path, typer.Argument(help="The founder's folder of a one-byte run.")],
    peer: Annotated[str, typer.Argument(help="Peer id, or its ending.")],
    keep: Annotated[
        int | None, typer.Option(min=0, help="Records of the peer that stay, its first ones [default: all so far].")
    ] = None,
    identity: o.IdentityFile = None,
) -> None:
    """Take back, on every peer, what a peer has said, and refuse what it will say."""
    from p2ptrain.peer.revoke import revoke as run

    print(run(run_dir, peer, keep, identity))
