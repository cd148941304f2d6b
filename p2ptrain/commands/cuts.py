"""The order that takes back a peer's records in a one-byte run, for `p2ptrain revoke`. This module imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.commands.visiting import tell_everyone
from p2ptrain.errors import StorageError
from p2ptrain.run import PeerId, SigningKey, short_peer
from p2ptrain.spsa.audit import Past
from p2ptrain.spsa.messages import MOST_KEPT, Revocation
from p2ptrain.spsa.reconcile import give_cut
from p2ptrain.state import RunFolder
from p2ptrain.swarm import Swarm


@dataclass(frozen=True, slots=True)
class Cut:
    """A signed order, and what it does, in words."""

    order: Revocation
    words: str

    @classmethod
    def make(cls, folder: RunFolder, key: SigningKey, peer: str, member: PeerId | None, keep: int | None) -> Cut:
        """Sign an order, with an owner's key, that takes back all records of a peer but its first `keep` ones. See
        `p2ptrain.commands.revoke.revoke` for `peer`, `keep` and the errors.

        Args:
            member: the peer's id if it is known already, as in a private run.
        """
        past = Past(folder)
        author = member or _author(past, peer)
        logs = past.in_order({log: count for log, count in past.book.lengths().items() if log.author == author})
        in_all = sum(logs.values())
        left, kept = in_all if keep is None else keep, []
        for log, count in logs.items():
            if stays := min(left, count):
                kept.append((log.session, stays))
            left -= stays
        if len(kept) > MOST_KEPT:
            raise StorageError(
                f"can't keep the records of {short_peer(author)} in {len(kept):,} logs",
                f"an order can name at most {MOST_KEPT:,} logs",
                "say how many of the peer's first records stay, e.g. --keep 0",
            )
        order = Revocation(author=key.peer_id, run=folder.run, revoked=author, kept=tuple(kept)).signed(key)
        stay = sum(count for _, count in kept)
        words = f"is revoked: {in_all - stay:,} of its records are taken back, {stay:,} stay"
        return cls(order, f"{short_peer(author)} {words}")

    def tell(self, swarm: Swarm) -> int:
        """Give the order to the run's peers; returns how many took it. Raises NetworkError if none did."""
        return tell_everyone(swarm, self.order.run, lambda peer: give_cut(swarm.rpc, peer, self.order))


def _author(past: Past, ending: str) -> PeerId:
    found = {log.author for log in past.book.lengths() if ending and log.author.endswith(ending)}
    if len(found) != 1:
        known = ", ".join(share.peer[-6:] for share in past.shares())
        raise StorageError(
            f"found {'several peers' if found else 'no peer'} with records in this folder for {ending!r}",
            f"there are: {known or 'none'}",
            "give a whole peer id: p2ptrain history RUN_DIR --json shows it",
        )
    return found.pop()
