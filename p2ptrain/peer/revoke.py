"""`p2ptrain revoke`: an owner shuts a peer out of a private run, and takes back what it has said in a one-byte run."""

from __future__ import annotations

from pathlib import Path

from p2ptrain.errors import AccessError, StorageError
from p2ptrain.peer.orders import shut_out
from p2ptrain.peer.visiting import find_member, members_of, owner_key, tell_everyone, visit
from p2ptrain.run import PeerId, SigningKey, SPSAMethod, short_peer
from p2ptrain.spsa.audit import Past
from p2ptrain.spsa.batch import MOST_KEPT, Revocation
from p2ptrain.spsa.reconcile import give_cut
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
    """
    folder = RunFolder.open(run_dir, lock=False)
    try:
        has_records = isinstance(folder.spec.method, SPSAMethod)
        if not folder.spec.is_private and not has_records:
            raise AccessError(
                "a public run can't shut anybody out", "it takes in anyone: a peer would come back under another name",
                "start a private one: p2ptrain peer RUN --private",
            )  # fmt: skip
        key = owner_key(folder, key_file)
        past = Past(folder) if has_records else None
        if folder.spec.is_private:
            author = find_member(members_of(folder), peer).peer
        else:
            assert past is not None
            author = _author(past, peer)
        cut = _cut(folder, key, past, author, keep) if past is not None else None
        told = [f"{short_peer(author)} is revoked"]
        with visit(folder, key) as swarm:
            if folder.spec.is_private:
                _, count = shut_out(swarm, key, (author,))
            if cut is not None:
                order, words = cut
                count = tell_everyone(swarm, folder.run, lambda other: give_cut(swarm.rpc, other, order))
                told.append(words)
        return f"{': '.join(told)}; {count} peers were told and pass it on"
    finally:
        folder.close()


def _cut(folder: RunFolder, key: SigningKey, past: Past, author: PeerId, keep: int | None) -> tuple[Revocation, str]:
    """The order that takes an author's records back, and what it does in words."""
    logs = past.in_order({log: count for log, count in past.book.lengths().items() if log.author == author})
    left, kept = keep, []
    for log, count in logs.items():
        stays = count if left is None else min(left, count)
        left = None if left is None else left - stays
        kept += [(log.session, stays)] if stays else []
    if len(kept) > MOST_KEPT:
        raise StorageError(
            f"{short_peer(author)} has records in {len(kept):,} logs, and an order can keep those of "
            f"{MOST_KEPT:,}",
            "", "give the number of its first records that stay with --keep, e.g. --keep 0",
        )  # fmt: skip
    order = Revocation(author=key.peer_id, run=folder.run, revoked=author, kept=tuple(kept)).signed(key)
    stays, gone = sum(count for _, count in kept), sum(logs.values()) - sum(count for _, count in kept)
    return order, f"{gone:,} of its records are taken back, {stays:,} stay"


def _author(past: Past, ending: str) -> PeerId:
    found = {log.author for log in past.book.lengths() if ending and log.author.endswith(ending)}
    if len(found) != 1:
        known = ", ".join(share.peer[-6:] for share in past.shares())
        raise StorageError(
            f"{ending!r} names {'no peer' if not found else 'several peers'} that this folder has records of",
            f"there are: {known or 'none'}", "give a whole peer id",
        )  # fmt: skip
    return found.pop()
