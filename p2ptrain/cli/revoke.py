"""p2ptrain revoke RUN_DIR PEER"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli import options as o


def revoke(
    run_dir: Annotated[Path, typer.Argument(help="Name or owner's folder of a private run, or of a one-byte run.")],
    peer: Annotated[str, typer.Argument(help="Peer id, its ending, or the label of its invite.")],
    keep: Annotated[
        int | None,
        typer.Option(min=0, help="Records of the peer that stay in a one-byte run, its first ones [default: all]."),
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--everyone", help="Also who came by the same invite: one holder can be several peers.")
    ] = False,
    owner_key: o.OwnerKey = None,
) -> None:
    """Shut a peer out of a private run; take back, on every peer, what it has said in a one-byte run."""
    from p2ptrain.lean import spare_torch

    spare_torch()  # before anything imports hivemind
    from p2ptrain.commands.revoke import revoke as run

    print(run(o.run_folder(run_dir), peer, keep, everyone, owner_key))
