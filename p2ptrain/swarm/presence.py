"""Who is there: heartbeats on the run's gossip topic, and the same signed record in the DHT for newcomers.

A peer says every 2 s where it is in the run; whoever has not been heard for 6 s counts as gone. Only the local
monotonic clock is asked. Every 20 s, and when its phase changes, the record goes to the DHT, too, where it lives for a
minute: a newcomer or an observer reads there who takes part, without any training process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from p2ptrain.run.keys import PeerId
from p2ptrain.run.record import Count, DigestField, Name, Number, Record, SignedRecord, Text

HEARTBEAT_SECONDS = 2.0
GONE_AFTER = 6.0
STALLED_AFTER = 3.0
MAX_NEWS_BYTES = 40 * 1024

Phase = Literal["starting", "joining", "ready", "training", "paused", "complete", "halted", "leaving"]
"""ready: loaded and waiting for others. paused: its volunteer's hours are over, or others need the machine; it serves
and applies, and nobody waits for it. complete: the run has reached its end. halted: can't go on, e.g. NaN."""

Reachability = Literal["unknown", "loopback", "private network", "public", "relayed", "outgoing only"]
"""What others have found by dialling back. relayed: nobody gets there but through a relay. outgoing only: nobody gets
there; the peer opens all its connections itself."""


class Presence(SignedRecord):
    """Where a peer is in a run. Everything that `status` and the tables show comes from these."""

    kind: ClassVar[str] = "presence/1"
    max_bytes: ClassVar[int] = 4096

    run: DigestField
    """All zero for a bootstrap node, which belongs to no run."""
    session: Annotated[bytes, Field(min_length=8, max_length=8)]
    """Random for every start of the process."""
    beat: Count
    phase: Phase
    name: Name
    """What its volunteer calls it; says nothing about who it is."""
    version: Text
    device: Text
    addresses: Annotated[tuple[Text, ...], Field(max_length=8)]
    reachability: Reachability
    height: Count
    commit: DigestField
    state: DigestField
    """Digest of the global state at `height`."""
    weight: Count
    steps: Count
    """Inner steps since the process started."""
    tokens: Count
    """Tokens trained on since the process started."""
    tokens_per_second: Number
    loss: Number | None
    """Smoothed training loss, nats per token."""
    eval_height: Count
    """Height of this peer's last held-out evaluation; 0 if it has done none."""
    eval_loss: Number | None
    held_out: DigestField
    """Digest of the held-out text here: evaluations of peers that differ in it can't be compared."""
    snapshots: Annotated[tuple[tuple[Count, DigestField], ...], Field(max_length=8)]
    """(height, state digest) of the snapshots that this peer serves."""
    bytes_sent: Count
    max_up: Count
    """Bytes per second that it sends at most, by its volunteer's limit; 0: no limit."""
    max_down: Count
    taken_back: Count
    """Commits that this peer had applied and took back for a heavier branch, since it joined the run."""


class Heartbeat(Record):
    """What goes over gossip every 2 s: the presence, and news in the method's own grammar, for who missed them."""

    kind: ClassVar[str] = "heartbeat/1"

    presence: Presence
    news: Annotated[bytes, Field(max_length=MAX_NEWS_BYTES)]
    papers: Annotated[bytes, Field(max_length=8)] = Field(b"", exclude_if=lambda papers: not papers)
    """Of a private run: the door's summary of who is in it."""


@dataclass(slots=True)
class _Seen:
    presence: Presence
    at: float


class PeerTable:
    """The peers of a run as this one hears them. Pure: the caller hands in the monotonic time."""

    def __init__(self, now: float) -> None:
        self._seen: dict[PeerId, _Seen] = {}
        self._looked = now

    def hear(self, presence: Presence, now: float) -> None:
        """Take in a heartbeat; one that is older than what is known of the same session is dropped."""
        peer = presence.author
        known = self._seen.get(peer)
        if known and known.presence.session == presence.session and known.presence.beat >= presence.beat:
            return
        self._seen[peer] = _Seen(presence, now)

    def look(self, now: float) -> bool:
        """Call this often. True if this process itself was stopped for a while: then nobody else was silent."""
        gap = now - self._looked
        self._looked = now
        if gap < STALLED_AFTER:
            return False
        for seen in self._seen.values():
            seen.at += gap
        return True

    def live(self, now: float) -> dict[PeerId, Presence]:
        """Who has been heard lately and has not said goodbye."""
        self._seen = {peer: seen for peer, seen in self._seen.items() if now - seen.at < 10 * GONE_AFTER}
        return {
            peer: seen.presence
            for peer, seen in self._seen.items()
            if now - seen.at < GONE_AFTER and seen.presence.phase != "leaving"
        }


def monotonic() -> float:
    """The one clock of liveness and patience."""
    return time.monotonic()
