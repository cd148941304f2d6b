"""Positions: how many records of each log. What is in a state, what a peer holds, what a mark agrees on.

Packed, for digests and for blobs, a position is its logs in the order of their names, each as

    author's key 32 ‖ session 8 ‖ records 8
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from p2ptrain.errors import MalformedError
from p2ptrain.run import PeerId
from p2ptrain.run.keys import peer_id_from_key, public_bytes_of
from p2ptrain.spsa.messages import SESSION_BYTES
from p2ptrain.state.logs import Log

Position = Mapping[Log, int]
"""A log that is not in it has no records."""

MAX_PACKED_BYTES = 16 * 2**20
_ENTRY = 32 + SESSION_BYTES + 8


def packed(position: Position) -> bytes:
    entries = [
        public_bytes_of(log.author) + log.session + count.to_bytes(8, "big") for log, count in position.items() if count
    ]
    return b"".join(sorted(entries))


def unpacked(data: bytes) -> dict[Log, int]:
    """Raises MalformedError unless `data` is what `packed` makes of a position."""
    if len(data) % _ENTRY:
        raise MalformedError("a position has an impossible length", f"{len(data)} bytes")
    entries = [data[at : at + _ENTRY] for at in range(0, len(data), _ENTRY)]
    position = {
        Log(peer_id_from_key(entry[:32]), entry[32 : 32 + SESSION_BYTES]): int.from_bytes(entry[-8:], "big")
        for entry in entries
    }
    if packed(position) != data or any(count >= 2**53 for count in position.values()):
        raise MalformedError("a position is not in its canonical form")
    return position


def total(position: Position) -> int:
    return sum(position.values())


def distance(one: Position, other: Position) -> int:
    """Records that are in one of the two only."""
    return sum(abs(one.get(log, 0) - other.get(log, 0)) for log in {*one, *other})


def towards(applied: Position, target: Position, most: int) -> dict[Log, int]:
    """A position on the way to `target`, at most `most` records further on; what has to be taken back goes first, at
    once. Every author gets an equal share, so that who says very much waits, and nobody else does."""
    reached = {log: min(count, target.get(log, 0)) for log, count in applied.items()}
    missing = {log: count - reached.get(log, 0) for log, count in target.items() if count > reached.get(log, 0)}
    shares = _equal_shares(missing, most)
    for log in sorted(missing):
        taken = min(missing[log], shares[log.author])
        shares[log.author] -= taken
        reached[log] = reached.get(log, 0) + taken
    return {log: count for log, count in reached.items() if count}


def _equal_shares(missing: Mapping[Log, int], most: int) -> Counter[PeerId]:
    """How many records of each author: none gets more than it wants, nor than another one who wants as much."""
    wanted: Counter[PeerId] = Counter()
    for log, count in missing.items():
        wanted[log.author] += count
    shares: Counter[PeerId] = Counter()
    left = most
    for place, (author, count) in enumerate(sorted(wanted.items(), key=lambda entry: (entry[1], entry[0]))):
        shares[author] = min(count, -(-left // (len(wanted) - place)))
        left -= shares[author]
    return shares
