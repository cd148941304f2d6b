"""How an owner takes back what a peer has said in a one-byte run. Brings torch along."""

from __future__ import annotations

from p2ptrain.commands.orders import member_to_shut_out, shut_out, shut_out_words
from p2ptrain.commands.visiting import members_of, tell_everyone, told_words, visit
from p2ptrain.errors import StorageError
from p2ptrain.run import PeerId, SigningKey, short_peer
from p2ptrain.spsa.audit import Past
from p2ptrain.spsa.messages import MOST_KEPT, Revocation
from p2ptrain.spsa.reconcile import give_cut
from p2ptrain.state import RunFolder


def take_back(folder: RunFolder, key: SigningKey, peer: str, keep: int | None, everyone: bool) -> str:
    """Take a peer's records back but for the first `keep`, and if the run is private, shut it out; returns one line
    that says so.

    Raises:
        StorageError: no such peer in this folder, or too many of its logs to keep.
        NetworkError: no peer of the run took the order.
    """
    past, is_private = Past(folder), folder.spec.is_private
    author = member_to_shut_out(members_of(folder), peer) if is_private else _author(past, peer)
    order, words = _cut(folder, key, past, author, keep)
    told = f"{short_peer(author)} is revoked"
    with visit(folder, key) as swarm:
        if is_private:
            told = shut_out_words(shut_out(swarm, key, (author,), companions=everyone)[0], author)
        count = tell_everyone(swarm, folder.run, lambda other: give_cut(swarm.rpc, other, order))
    return f"{told}: {words}; {told_words(count)}"


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
            f"{short_peer(author)} has records in {len(kept):,} logs, and an order can keep those of {MOST_KEPT:,}",
            "",
            "give the number of its first records that stay with --keep, e.g. --keep 0",
        )
    order = Revocation(author=key.peer_id, run=folder.run, revoked=author, kept=tuple(kept)).signed(key)
    stays, gone = sum(count for _, count in kept), sum(logs.values()) - sum(count for _, count in kept)
    return order, f"{gone:,} of its records are taken back, {stays:,} stay"


def _author(past: Past, ending: str) -> PeerId:
    found = {log.author for log in past.book.lengths() if ending and log.author.endswith(ending)}
    if len(found) != 1:
        known = ", ".join(share.peer[-6:] for share in past.shares())
        raise StorageError(
            f"{ending!r} names {'no peer' if not found else 'several peers'} that this folder has records of",
            f"there are: {known or 'none'}",
            "give a whole peer id",
        )
    return found.pop()
