"""`p2ptrain revoke`: shut a peer out of a private run, and take back its records in a one-byte run."""

from __future__ import annotations

from pathlib import Path

from p2ptrain.commands.orders import shut_out
from p2ptrain.commands.visiting import find_member, members_of, owner_key, told_words, visit
from p2ptrain.errors import AccessError, UsageError
from p2ptrain.run import PeerId, RunSpec, short_peer
from p2ptrain.run.access import Access
from p2ptrain.run.certificate import Order
from p2ptrain.state import RunFolder
from p2ptrain.units import counted


def revoke(run_dir: Path, peer: str, keep: int | None, everyone: bool, key_file: Path | None) -> str:
    """Sign the orders, give them to the run's peers, which pass them on, and say in one line what was done.

    Args:
        peer: a peer id, or the ending of one that this folder knows, or in a private run the label of an invite.
        keep: in a one-byte run, how many of the peer's records stay, in the order in which they came to this folder;
            None: all that are here.
        everyone: in a private run, also shut out every other peer that used the same invite.
        key_file: an owner's key; None: the key of the folder's own peer.

    Raises:
        UsageError: `keep` for a run without records, or `everyone` for a public run.
        IdentityError, AccessError: the key can't be read or is no owner's.
        AccessError: the peer is an owner, or the run is public and has no records.
        StorageError: this folder does not know the peer, or the order would be too long.
        LedgerError: a log in the folder is damaged.
        NetworkError: no peer of the run took the order.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        _check_options(folder.spec, keep, everyone)
        key, cut = owner_key(folder, key_file), None
        member = member_to_shut_out(members_of(folder), peer) if folder.spec.is_private else None
        if folder.spec.method.keeps_records:
            from p2ptrain.commands.cuts import Cut  # it imports torch, which other runs do not need here

            cut = Cut.make(folder, key, peer, member, keep)
        others: list[str] = []
        with visit(folder, key) as swarm:
            if member:
                order, count = shut_out(swarm, key, (member,), companions=everyone)
                done, others = f"{short_peer(member)} is revoked", words_on_others(order)
            if cut:
                count, done = cut.tell(swarm), cut.words
        return "; ".join([done, *others, told_words(count)])


def _check_options(spec: RunSpec, keep: int | None, everyone: bool) -> None:
    """Raises AccessError and UsageError as `revoke` says."""
    if not spec.is_private and not spec.method.keeps_records:
        what, step = "a public run can't shut out a peer", "start a private run: p2ptrain peer RUN --private"
        raise AccessError(what, "a public run takes in everyone: the peer would come back under another id", step)
    if keep is not None and not spec.method.keeps_records:
        why = "--keep is for one-byte runs only; nothing is taken back in this run"
        raise UsageError("this run has no records to keep", why, "leave out --keep")
    if everyone and not spec.is_private:
        why = "a public run does not know which invite a peer used"
        raise UsageError("--everyone means nothing for a public run", why, "leave out --everyone")


def member_to_shut_out(access: Access, text: str) -> PeerId:
    """The member that a peer id, the ending of one, or the label of an invite stands for. Raises StorageError if no
    member or several members match, and AccessError if the member is an owner."""
    member = find_member(access, text)
    if member.role == "owner":
        raise AccessError(
            f"{short_peer(member.peer)} is an owner of the run and can't be revoked",
            "the run's first record names the owners, and nothing can change it",
            "start a new run with other owners: p2ptrain peer RUN --private",
        )
    return member.peer


def words_on_others(order: Order) -> list[str]:
    """What an order does to other members that used the same invite; empty if there are none."""
    counts = (("also revoked", len(order.peers) - 1), ("not revoked", len(order.kept)))
    return [f"{what}: {counted(count, 'other member')} that used the same invite" for what, count in counts if count]
