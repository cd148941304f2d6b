"""Which peers are there: heartbeats on the run's gossip topic, and the same signed record in the DHT for newcomers.

Every 2 s a peer says where it is in the run. A peer that has not been heard for 6 s counts as gone; this is measured
with the local monotonic clock only. Every 20 s, and when its phase changes, a peer stores the record in the DHT, too,
where it lives for a minute. There newcomers and observers read who takes part.
"""

from __future__ import annotations

import time
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from p2ptrain.run.keys import PeerId
from p2ptrain.run.record import Count, DigestField, Name, Number, Record, SignedRecord, Text

HEARTBEAT_SECONDS = 2.0
GONE_AFTER = 6.0
STALLED_AFTER = 3.0
MAX_NEWS_BYTES, SUMMARY_BYTES = 40 * 1024, 8
monotonic = time.monotonic
"""The clock, in seconds, for who is alive and for all waiting."""

Phase = Literal["starting", "joining", "ready", "training", "paused", "complete", "halted", "leaving"]
"""ready: the model is loaded, and the peer waits for others. paused: the volunteer's hours are over, or others need the
machine; the peer still serves data and applies commits, but nobody waits for its contributions. complete: the run has
reached its end. halted: the peer can't go on, e.g. because of NaN."""

Reachability = Literal["unknown", "loopback", "private network", "public", "relayed", "outgoing only"]
"""What others have found when they dialled this peer back. relayed: others reach it through a relay only. outgoing
only: nobody can reach it, and it opens all its connections itself."""


class Presence(SignedRecord):
    """What a peer says about itself and its place in the run. All that `status` and the tables show comes from here."""

    kind: ClassVar[str] = "presence/1"
    max_bytes: ClassVar[int] = 4096

    run: DigestField
    """The run's id; all zero for a bootstrap node, which belongs to no run."""
    session: Annotated[bytes, Field(min_length=8, max_length=8)]
    """Random bytes, new at each start of the process."""
    beat: Count
    """Counts the presences of a session; a higher one is newer."""
    phase: Phase
    name: Name
    """The name that the volunteer has chosen. It proves nothing: anybody can choose any name."""
    version: Text
    device: Text
    addresses: Annotated[tuple[Text, ...], Field(max_length=8)]
    reachability: Reachability
    height: Count
    commit: DigestField
    state: DigestField
    """The digest of the global state at `height`."""
    weight: Count
    steps: Count
    """Inner steps since the process started."""
    tokens: Count
    """Tokens trained on since the process started."""
    tokens_per_second: Number
    loss: Number | None
    """Smoothed training loss, nats per token."""
    eval_height: Count
    """The height of this peer's last held-out evaluation; 0 if there was none."""
    eval_loss: Number | None
    held_out: DigestField
    """The digest of this peer's held-out text. Evaluations can be compared only between peers with the same text."""
    snapshots: Annotated[tuple[tuple[Count, DigestField], ...], Field(max_length=8)]
    """(height, state digest) of the snapshots that this peer serves."""
    bytes_sent: Count
    max_up: Count
    """The volunteer's limit for sending, in bytes per second; 0: no limit."""
    max_down: Count
    """The same for receiving."""
    taken_back: Count
    """Commits that this peer has applied and then taken back for a heavier branch, since it joined the run."""


class Heartbeat(Record):
    """The message that each peer sends every 2 s: its presence, and the method's news, for peers that missed them."""

    kind: ClassVar[str] = "heartbeat/1"

    presence: Presence
    news: Annotated[bytes, Field(max_length=MAX_NEWS_BYTES)]
    papers: Annotated[bytes, Field(max_length=SUMMARY_BYTES)] = Field(b"", exclude_if=lambda papers: not papers)
    """In a private run: the door's summary of what it knows about the members."""


class PeerTable:
    """The peers of a run, as this peer hears them. The caller passes the monotonic time, in seconds, to each
    function."""

    def __init__(self, now: float) -> None:
        self._seen: dict[PeerId, tuple[Presence, float]] = {}
        """The newest presence of each peer, and when it was heard."""
        self._looked = now

    def hear(self, presence: Presence, now: float) -> None:
        """Take in a presence; it is dropped if a newer one of the same session is known."""
        peer = presence.author
        known, _ = self._seen.get(peer, (None, now))
        if known is None or known.session != presence.session or known.beat < presence.beat:
            self._seen[peer] = presence, now

    def look(self, now: float) -> bool:
        """Call this often. True if this process itself was stopped for a while; then the others do not count as
        silent."""
        gap = now - self._looked
        self._looked = now
        if gap < STALLED_AFTER:
            return False
        self._seen = {peer: (presence, heard + gap) for peer, (presence, heard) in self._seen.items()}
        return True

    def live(self, now: float) -> dict[PeerId, Presence]:
        """The peers that have been heard within the last 6 s and have not left."""
        self._seen = {peer: seen for peer, seen in self._seen.items() if now - seen[1] < 10 * GONE_AFTER}
        recent = {peer: presence for peer, (presence, heard) in self._seen.items() if now - heard < GONE_AFTER}
        return {peer: presence for peer, presence in recent.items() if presence.phase != "leaving"}
