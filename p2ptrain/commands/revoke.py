"""`p2ptrain revoke`: an owner shuts a peer out of a private run, and takes back what it has said in a one-byte run."""

from __future__ import annotations

from pathlib import Path

from p2ptrain.commands.orders import member_to_shut_out, shut_out, shut_out_words
from p2ptrain.commands.visiting import members_of, owner_key, told_words, visit
from p2ptrain.errors import AccessError, UsageError
from p2ptrain.state import RunFolder


def revoke(run_dir: Path, peer: str, keep: int | None, everyone: bool, key_file: Path | None) -> str:
    """Sign the orders and hand them to the run's peers, who pass them on; works beside a running peer.

    Args:
        peer: a peer id, the ending of one that this folder knows, or the label of an invite.
        keep: how many of its records stay, in the order in which it said them; None: all that are here.
        everyone: in a private run, shut out also who came by the same invite.
        key_file: an owner's key; the folder's own if None.

    Returns:
        One line that says what was done.

    Raises:
        StorageError: no such peer in this folder, or too many of its logs to keep.
        AccessError: the key is no owner's, the peer is one, or the run takes in anyone, again and again.
        NetworkError: no peer of the run took the order.
        UsageError: `keep` of a run that has no records, or `everyone` of one that has no invites.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        has_records = folder.spec.method.keeps_records
        if not folder.spec.is_private and not has_records:
            raise AccessError(
                "a public run can't shut anybody out",
                "it takes in anyone: a peer would come back under another name",
                "start a private one: p2ptrain peer RUN --private",
            )
        if keep is not None and not has_records:
            raise UsageError(
                "this run has no records to keep",
                "--keep is for one-byte runs: of this one nothing is taken back",
                "leave out --keep",
            )
        if everyone and not folder.spec.is_private:
            raise UsageError(
                "nobody came to this run by an invite of theirs", "--everyone is for private runs", "leave it out"
            )
        key = owner_key(folder, key_file)
        if has_records:
            from p2ptrain.commands.cuts import take_back  # with torch, which is spared where nothing is taken back

            return take_back(folder, key, peer, keep, everyone)
        author = member_to_shut_out(members_of(folder), peer)
        with visit(folder, key) as swarm:
            order, count = shut_out(swarm, key, (author,), companions=everyone)
        return f"{shut_out_words(order, author)}; {told_words(count)}"
