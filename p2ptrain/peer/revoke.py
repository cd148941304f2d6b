"""`p2ptrain revoke`: the founder of a one-byte run takes back what a peer has said."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from p2ptrain.errors import IdentityError, NetworkError, StorageError
from p2ptrain.run import Digest, PeerId, SigningKey, short_peer
from p2ptrain.spsa.audit import Past
from p2ptrain.spsa.batch import MOST_KEPT, Revocation
from p2ptrain.spsa.reconcile import give_cut
from p2ptrain.state import RunFolder
from p2ptrain.state.contact import Contact
from p2ptrain.swarm import Identity, NodeConfig, Presence, RpcError, Swarm

DIRECTORY_SECONDS = 30.0


def revoke(run_dir: Path, peer: str, keep: int | None, identity: Path | None) -> str:
    """Sign the order and hand it to the run's peers, who pass it on; works beside the founder's running peer.

    Args:
        peer: a peer id, or the ending of one that this folder knows.
        keep: how many of its records stay, in the order in which it said them; None: all that are here.
        identity: the founder's key file; the folder's own if None.

    Returns:
        One line that says what was done.

    Raises:
        StorageError: no one-byte run's folder, no such peer in it, or too many of its logs to keep.
        IdentityError: the key is not the founder's.
        NetworkError: no peer of the run took the order.
    """
    folder = RunFolder.open(run_dir, lock=False)
    try:
        _ = folder.spec.spsa  # raises: another method
        key = _founders_key(folder, identity)
        past = Past(folder)
        author = _author(past, peer)
        logs = past.in_order({log: count for log, count in past.book.lengths().items() if log.author == author})
        left, kept = keep, []
        for log, count in logs.items():
            stays = count if left is None else min(left, count)
            left = None if left is None else left - stays
            kept += [(log.session, stays)] if stays else []
        if len(kept) > MOST_KEPT:
            raise StorageError(
                f"{short_peer(author)} has records in {len(kept):,} logs, and an order can keep those of {MOST_KEPT:,}",
                "", "give the number of its first records that stay with --keep, e.g. --keep 0",
            )  # fmt: skip
        order = Revocation(author=key.peer_id, run=folder.run, revoked=author, kept=tuple(kept)).signed(key)
        told = _hand_out(folder.contact, order)
        stays, gone = sum(count for _, count in kept), sum(logs.values()) - sum(count for _, count in kept)
        return (
            f"{short_peer(author)} is revoked: {gone:,} of its records are taken back, {stays:,} stay; "
            f"{told} peers were told and pass it on"
        )
    finally:
        folder.close()


def _founders_key(folder: RunFolder, given: Path | None) -> SigningKey:
    path = given or Path(folder.contact.identity)
    try:
        key = SigningKey.from_file_bytes(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IdentityError(f"can't read the key {path}", str(error), "give the founder's with --identity") from None
    if key.peer_id != folder.genesis.author:
        raise IdentityError(
            f"{path} is not the key of the run's founder", f"that is {folder.genesis.author}",
            "only the founder revokes; give its key with --identity",
        )  # fmt: skip
    return key


def _author(past: Past, ending: str) -> PeerId:
    found = {log.author for log in past.book.lengths() if ending and log.author.endswith(ending)}
    if len(found) != 1:
        known = ", ".join(share.peer[-6:] for share in past.shares())
        raise StorageError(
            f"{ending!r} names {'no peer' if not found else 'several peers'} that this folder has records of",
            f"there are: {known or 'none'}", "give a whole peer id",
        )  # fmt: skip
    return found.pop()


def _hand_out(contact: Contact, order: Revocation) -> int:
    """How many of the run's peers have taken the order, looked for with a passing identity."""
    here = (f"/ip4/127.0.0.1/tcp/{contact.port}/p2p/{contact.peer}",) if contact.port and contact.peer else ()
    known = (*here, *contact.peers)
    if not known:
        raise NetworkError("this folder knows no peer of the run", "", "start its peer first")
    with tempfile.TemporaryDirectory() as home:
        config = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=known)
        with Swarm.start(Identity.open(Path(home) / "passing.key"), config) as swarm:
            return swarm.run(_tell(swarm, order), 2 * DIRECTORY_SECONDS)


async def _tell(swarm: Swarm, order: Revocation) -> int:
    problem = "nobody is there"

    async def tell(peer: PeerId, presence: Presence) -> bool:
        nonlocal problem
        try:
            await swarm.node.connect(peer, presence.addresses)
            await give_cut(swarm.rpc, peer, order)
        except (NetworkError, RpcError) as error:
            problem = str(error)
            return False
        return True

    peers = await swarm.directory.peers(Digest(order.run))
    told = sum(await asyncio.gather(*(tell(peer, presence) for peer, presence in peers.items())))
    if not told:
        raise NetworkError("no peer of the run took the order", problem, "start a peer of the run and try again")
    return told
