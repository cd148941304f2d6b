"""What happens to a peer in the round protocol (events) and what it then does (actions)."""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.run import Digest, PeerId
from p2ptrain.run.head import Head

# Events


@dataclass(frozen=True, slots=True)
class PeersChanged:
    """Who is alive now: `trainers` can contribute (this peer too, while it trains), `live` is everyone."""

    trainers: frozenset[PeerId]
    live: frozenset[PeerId]


@dataclass(frozen=True, slots=True)
class Offered:
    """A contribution whose signature has been checked, mine included."""

    contribution: Contribution


@dataclass(frozen=True, slots=True)
class Stored:
    """The bytes of a payload are here now; `usable` tells whether they decode."""

    payload: Digest
    usable: bool


@dataclass(frozen=True, slots=True)
class FetchFailed:
    payload: Digest


@dataclass(frozen=True, slots=True)
class Holding:
    """A peer says that it holds these payloads."""

    peer: PeerId
    payloads: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit whose signatures have been checked, mine included."""

    commit: Commit
    source: PeerId


@dataclass(frozen=True, slots=True)
class Applied:
    """A commit was applied here; `head` is the position it leads to."""

    head: Head


@dataclass(frozen=True, slots=True)
class ApplyFailed:
    """A commit can't be applied here. `differs`: because it names another state than this peer's."""

    commit: Digest
    differs: bool


@dataclass(frozen=True, slots=True)
class HeadSeen:
    """Where a peer says that it is; None while it is still looking for its place."""

    peer: PeerId
    head: Head | None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """This peer was not running for a while (suspended): what it knows of the others' silence means nothing."""


Event = (
    PeersChanged
    | Offered
    | Stored
    | FetchFailed
    | Holding
    | Committed
    | Applied
    | ApplyFailed
    | HeadSeen
    | Tick
    | Resumed
)


# Actions


@dataclass(frozen=True, slots=True)
class FetchPayload:
    contribution: Contribution


@dataclass(frozen=True, slots=True)
class FetchCommits:
    """Get the commits from `tip` back to one that is known."""

    tip: Digest
    source: PeerId


@dataclass(frozen=True, slots=True)
class SayHolding:
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
    """Apply a commit, all of whose bytes are here, and report `Applied` or `ApplyFailed`."""

    commit: Commit


@dataclass(frozen=True, slots=True)
class HeadChanged:
    """The head is another one; `rolled_back` commits of the old branch are no longer on it."""

    head: Head
    rolled_back: int


@dataclass(frozen=True, slots=True)
class Hurry:
    """A quorum of others has contributed for this height: contribute the steps that are done."""

    height: int


@dataclass(frozen=True, slots=True)
class Resync:
    """Replaying commits does not lead to where the others are: start over from a snapshot."""

    reason: str


Action = FetchPayload | FetchCommits | SayHolding | Propose | Apply | HeadChanged | Hurry | Resync
