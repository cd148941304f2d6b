"""p2ptrain revoke RUN_DIR PEER"""

from __future__ import annotations

from typing import Annotated

from p2ptrain.cli import options as o
from p2ptrain.lean import spare_torch


def revoke(
    run_dir: o.RunDir,
    peer: Annotated[str, o.argument("PEER", "Peer id, or its ending, or the label of the peer's invite.")],
    keep: Annotated[
        int | None,
        o.option(
            "--keep", "N", "In a one-byte run, take back all of its records but the first N.", "take back none", min=0
        ),
    ] = None,
    everyone: Annotated[
        bool, o.option("--everyone", None, "Also shut out every peer that came by the same invite.")
    ] = False,
    owner_key: o.OwnerKey = None,
) -> None:
    """Shut a peer out of a private run, or take back its records.

    In a private run the peer is no member any more. In a one-byte run, private or public, its later records do not
    count, and with --keep every peer takes earlier ones back. Only an owner can revoke.
    """
    spare_torch()  # before anything imports hivemind
    from p2ptrain.commands.revoke import revoke as run

    print(run(o.run_folder(run_dir), peer, keep, everyone, owner_key))
