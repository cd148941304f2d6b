"""What the round protocol is told (events) and what it asks for (actions). `monitor.events` are news for people."""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.run import Digest, PeerId
from p2ptrain.run.head import Head

# Events


@dataclass(frozen=True, slots=True)
class PeersChanged:
    """Which peers are alive now, this one included: `trainers` can contribute, `live` is all of them."""

    trainers: frozenset[PeerId]
    live: frozenset[PeerId]


@dataclass(frozen=True, slots=True)
class Offered:
    """A contribution, by this peer or another, whose signature has been checked."""

    contribution: Contribution


@dataclass(frozen=True, slots=True)
class Stored:
    """The bytes of a contribution are here now, filed for its height; `usable` tells whether they decode."""

    contribution: Contribution
    usable: bool


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """No peer handed out the bytes of this contribution."""

    contribution: Contribution


@dataclass(frozen=True, slots=True)
class Holding:
    """A peer says that it holds these payloads."""

    peer: PeerId
    payloads: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit, by this peer or another, whose signatures have been checked."""

    commit: Commit
    source: PeerId


@dataclass(frozen=True, slots=True)
class Applied:
    """A commit was applied here; `head` is the position it leads to."""

    head: Head


@dataclass(frozen=True, slots=True)
class ApplyFailed:
    """A commit can't be applied here. `differs`: the reason is that it names another state than this peer's."""

    commit: Digest
    differs: bool


@dataclass(frozen=True, slots=True)
class HeadSeen:
    """The head that a peer claims to be at; None while that peer is still starting or joining."""

    peer: PeerId
    head: Head | None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """This peer was suspended for a while, so it can't conclude anything from not having heard the others."""


Heard = PeersChanged | Offered | Holding | Committed | HeadSeen
Done = Stored | FetchFailed | Applied | ApplyFailed
Event = Heard | Done | Tick | Resumed

# Actions


@dataclass(frozen=True, slots=True)
class FetchPayload:
    """Get a contribution's bytes, and report `Stored` or `FetchFailed`."""

    contribution: Contribution


@dataclass(frozen=True, slots=True)
class FetchCommits:
    """Get the commits from `tip` down to a known one, and report each as `Committed`."""

    tip: Digest
    source: PeerId


@dataclass(frozen=True, slots=True)
class SayHolding:
    """Tell the others that this peer holds a payload."""

    payload: Digest


@dataclass(frozen=True, slots=True)
class Propose:
    """Sign and publish a commit, and take it in as `Committed`."""

    height: int
    parent: Digest
    state: Digest
    attempt: int
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply a commit whose payloads are all here, and report `Applied` or `ApplyFailed`."""

    commit: Commit


@dataclass(frozen=True, slots=True)
class HeadChanged:
    """The head has changed. `rolled_back` commits of the old head's branch are not on the new one's."""

    head: Head
    rolled_back: int


@dataclass(frozen=True, slots=True)
class Hurry:
    """A quorum of other peers has contributed for this height: contribute the steps that are done."""

    height: int


@dataclass(frozen=True, slots=True)
class Resync:
    """Commits do not lead to the others' head: start again from a snapshot."""

    reason: str


Action = FetchPayload | FetchCommits | SayHolding | Propose | Apply | HeadChanged | Hurry | Resync
