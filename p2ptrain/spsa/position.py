"""Positions: a number of records for each log. States, peers and marks are at a position.

A packed position, of which digests and blobs are made, lists its logs in the order of their names, 48 bytes for each:

    author's key 32 ‖ session 8 ‖ records 8
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from p2ptrain.errors import MalformedError
from p2ptrain.run import PeerId
from p2ptrain.run.keys import peer_id_from_key, public_bytes_of
from p2ptrain.state.logs import Log

Position = Mapping[Log, int]
"""The number of records from the beginning of each log. A log that is not in the mapping has none."""

SESSION_BYTES = 8
LOG_BYTES = 32 + SESSION_BYTES
MAX_PACKED_BYTES = 16 * 2**20
_ENTRY = LOG_BYTES + 8


def log_to_bytes(log: Log) -> bytes:
    """A log's name in 40 bytes: its author's key, then its session."""
    return public_bytes_of(log.author) + log.session


def log_from_bytes(data: bytes) -> Log:
    """The log that the first 40 bytes name."""
    return Log(peer_id_from_key(data[:32]), data[32:LOG_BYTES])


def packed(position: Position) -> bytes:
    """The one encoding of a position, see above."""
    return b"".join(sorted(log_to_bytes(log) + count.to_bytes(8, "big") for log, count in position.items() if count))


def unpacked(data: bytes) -> dict[Log, int]:
    """The position that these bytes encode. Raises MalformedError if they are not the one encoding of a position."""
    if len(data) % _ENTRY:
        raise MalformedError("a position has an impossible length", f"{len(data)} bytes")
    entries = [data[at : at + _ENTRY] for at in range(0, len(data), _ENTRY)]
    position = {log_from_bytes(entry): int.from_bytes(entry[-8:], "big") for entry in entries}
    if packed(position) != data or any(count >= 2**53 for count in position.values()):
        raise MalformedError("a position is not in its canonical form")
    return position


def total(position: Position) -> int:
    """Records in all logs together."""
    return sum(position.values())


def distance(one: Position, other: Position) -> int:
    """Number of records that are in only one of the two positions."""
    return sum(abs(one.get(log, 0) - other.get(log, 0)) for log in {*one, *other})


def towards(applied: Position, target: Position, most: int) -> dict[Log, int]:
    """The next position on the way from `applied` to `target`. All records beyond `target` are taken back at once, and
    at most `most` records are added. Authors get equal shares of `most`, so an author of very many records delays only
    itself."""
    reached = {log: min(count, target.get(log, 0)) for log, count in applied.items()}
    missing = {log: count - reached.get(log, 0) for log, count in target.items() if count > reached.get(log, 0)}
    shares = _equal_shares(missing, most)
    for log in sorted(missing):
        taken = min(missing[log], shares[log.author])
        shares[log.author] -= taken
        reached[log] = reached.get(log, 0) + taken
    return {log: count for log, count in reached.items() if count}


def _equal_shares(missing: Mapping[Log, int], most: int) -> Counter[PeerId]:
    """Split `most` records among authors: none gets more than is missing of its logs, the rest is shared equally."""
    wanted: Counter[PeerId] = Counter()
    for log, count in missing.items():
        wanted[log.author] += count
    shares: Counter[PeerId] = Counter()
    left = most
    for served, (author, count) in enumerate(sorted(wanted.items(), key=lambda entry: (entry[1], entry[0]))):
        shares[author] = min(count, -(-left // (len(wanted) - served)))
        left -= shares[author]
    return shares
