"""`p2ptrain revoke`: an owner shuts a peer out of a private run, and takes back what it has said in a one-byte run."""

from __future__ import annotations

from pathlib import Path

from p2ptrain.errors import AccessError, UsageError
from p2ptrain.peer.orders import shut_out
from p2ptrain.peer.visiting import find_member, members_of, owner_key, told_words, visit
from p2ptrain.run import SPSAMethod, short_peer
from p2ptrain.state import RunFolder


def revoke(run_dir: Path, peer: str, keep: int | None, key_file: Path | None) -> str:
    """Sign the orders and hand them to the run's peers, who pass them on; works beside a running peer.

    Args:
        peer: a peer id, the ending of one that this folder knows, or the label of an invite.
        keep: how many of its records stay, in the order in which it said them; None: all that are here.
        key_file: an owner's key; the folder's own if None.

    Returns:
        One line that says what was done.

    Raises:
        StorageError: no such peer in this folder, or too many of its logs to keep.
        AccessError: the key is no owner's, or the run takes in anyone, again and again.
        NetworkError: no peer of the run took the order.
        UsageError: `keep` of a run that has no records.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        has_records = isinstance(folder.spec.method, SPSAMethod)
        if not folder.spec.is_private and not has_records:
            raise AccessError(
                "a public run can't shut anybody out", "it takes in anyone: a peer would come back under another name",
                "start a private one: p2ptrain peer RUN --private",
            )  # fmt: skip
        if keep is not None and not has_records:
            raise UsageError(
                "this run has no records to keep", "--keep is for one-byte runs: of this one nothing is taken back",
                "leave out --keep",
            )  # fmt: skip
        key = owner_key(folder, key_file)
        if has_records:
            from p2ptrain.peer.cuts import take_back  # with torch, which is spared where nothing is taken back

            return take_back(folder, key, peer, keep)
        author = find_member(members_of(folder), peer).peer
        with visit(folder, key) as swarm:
            count = shut_out(swarm, key, (author,))
        return f"{short_peer(author)} is revoked; {told_words(count)}"
