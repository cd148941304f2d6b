"""What a peer tells people and programs: one dataclass for each kind of event.

Reporters show events as tables on a terminal, as plain lines in a pipe, and with --json as one JSON object per line:
`{"event": name, …}` with the fields below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

NO_CODE: Final = "no code from the network is run"


@dataclass(frozen=True, slots=True)
class Event:
    name: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Preparing(Event):
    """What this peer does now, before it has joined the run."""

    name: ClassVar[str] = "preparing"
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """A model, tokenizer or dataset that a peer is about to load."""

    what: str
    """Its name, path or kind, without control characters: these are strangers' words."""
    place: Literal["hub", "cache", "folder", "files", "here"]
    """Where it comes from: the hub; this machine's cache of the hub; a folder or files of this machine. 'here' means
    none of these."""
    bytes: int | None = None
    """Bytes to download, or on this disk; None: unknown."""
    at_most: bool = False
    """The peer may load fewer than `bytes`."""
    streamed: bool = False
    """The peer reads it while it trains; `bytes` is all of it."""
    licence: str = ""
    """What its author calls the licence; empty: unknown."""
    unknown: str = ""
    """Why the size or the licence is unknown."""


@dataclass(frozen=True, slots=True)
class Loading(Event):
    """What this peer is about to load for its run. It comes before any of it is loaded: a person can still leave."""

    name: ClassVar[str] = "loading"
    run_name: str
    run: str
    """Id of the run; empty if this peer founds it now."""
    founder: str
    description: str
    model: Part
    tokenizer: Part | None
    """None: the model's own."""
    data: Part
    parameters: int | None
    """Number of the model's parameters; None: unknown."""
    parameters_at_least: bool
    """The model has more parameters: the tokenizer is not here yet, so its vocabulary can't be counted."""
    trained: int | None
    """Number of parameters that are trained and exchanged; None: unknown."""
    method: Literal["diloco", "spsa"]
    state_bytes: int | None
    """At most so many bytes are fetched from the run's peers; None: unknown."""
    sends: str
    """What goes to each other peer, in words; empty if it is not known."""
    sent_bytes: int | None
    """About so many bytes go to each other peer, every `sent_every` inner steps; None: unknown."""
    sent_every: int
    code: str = NO_CODE


@dataclass(frozen=True, slots=True)
class DataRead(Event):
    """What this peer has read of its data before it trains, and what it can't use."""

    name: ClassVar[str] = "data"
    rows: int
    """Rows or documents that were read. Of a stream, these are its first ones."""
    used: int
    whole: bool
    """Whether these are all of them; False for a stream that goes on."""
    left_out: dict[str, int]
    """Rows that can't be used, by reason."""
    replaced: int
    """Characters whose bytes are no UTF-8."""
    told: tuple[str, ...]
    """The same in words, and what else a person should know."""


@dataclass(frozen=True, slots=True)
class Fetching(Event):
    """How much of the run's state has arrived; about once a second."""

    name: ClassVar[str] = "fetching"
    bytes_here: int
    bytes_total: int
    seconds: float
    """Seconds since the first bytes."""
    rate: float
    """Bytes per second since then; 0: not known yet."""


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The peer has joined the run: where its files are, and how others join."""

    name: ClassVar[str] = "started"
    run_name: str
    run: str
    peer: str
    invite: str
    """Empty for a private run: its owners make invites."""
    invite_with: str
    """The command with which an owner of a private run makes invites; empty if this peer is no owner."""
    folder: str
    device: str
    parameters: int
    """Number of trained parameters."""
    held_out: str
    founded: bool


@dataclass(frozen=True, slots=True)
class Training(Event):
    """The peer has caught up with the others; its first inner step comes next."""

    name: ClassVar[str] = "training"
    height: int
    commit: str
    state: str
    peers: int


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """How far training is; about once a second."""

    name: ClassVar[str] = "progress"
    steps: int
    seconds: float
    """Seconds since the first inner step."""
    height: int
    loss: float | None
    learning_rate: float
    tokens_per_second: float
    peers: int
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class Committed(Event):
    """This peer's head has moved to this commit."""

    name: ClassVar[str] = "commit"
    height: int
    commit: str
    state: str
    leader: str
    attempt: int
    contributors: tuple[str, ...]
    steps: tuple[int, ...]
    """Number of inner steps in each contribution."""
    tokens: int
    rolled_back: int


@dataclass(frozen=True, slots=True)
class RolledBack(Event):
    """This peer has left its branch for a heavier one. Its ledger keeps the old branch."""

    name: ClassVar[str] = "rollback"
    commits: int
    old: str
    new: str
    tokens: int
    """Tokens of all peers that no longer count."""
    own_tokens: int
    """Tokens of this peer among them."""


@dataclass(frozen=True, slots=True)
class Replaying(Event):
    """How many records are applied to this peer's weights; about once a second while there are many."""

    name: ClassVar[str] = "replaying"
    records_done: int
    records_total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Marked(Event):
    """This peer has saved the state at an agreed position of a one-byte run, and told others its digest."""

    name: ClassVar[str] = "mark"
    number: int
    records: int
    position: str
    """Digest of the position: where it is equal, the states are equal. The two sides of a partition may have the same
    number of records, but not the same records."""
    state: str


@dataclass(frozen=True, slots=True)
class Evaluated(Event):
    """Loss of the global weights at a height on the held-out data."""

    name: ClassVar[str] = "evaluation"
    height: int
    loss: float
    """Nats per token; nats per example in a classification."""
    accuracy: float | None = None
    """Share of held-out examples whose label was found; None in tasks without labels."""


@dataclass(frozen=True, slots=True)
class Paused(Event):
    """The peer stops training for a while, and stays in the swarm."""

    name: ClassVar[str] = "paused"
    reason: str
    until: str | None
    """Local time at which it continues, in ISO 8601; None if that depends on something else."""


@dataclass(frozen=True, slots=True)
class WentOn(Event):
    """The pause is over."""

    name: ClassVar[str] = "resumed"
    seconds: float
    """Length of the pause in seconds."""


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something that a person should know; training continues."""

    name: ClassVar[str] = "warning"
    text: str


@dataclass(frozen=True, slots=True)
class Left(Event):
    """The last event of a peer that was asked to stop before it had joined the run: it has nothing to save."""

    name: ClassVar[str] = "left"
    folder: str
    """Empty if the run has no folder here yet."""
    resume: str


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """The last event of a peer that had joined the run: how the peer ended, what it sent, and how to resume it."""

    name: ClassVar[str] = "stopped"
    reason: str
    height: int
    commit: str
    state: str
    steps: int
    seconds: float
    folder: str
    resume: str
    sent: dict[str, int]
    """Bytes that this peer has sent in streams and gossip, with framing, by purpose."""
    refused: dict[str, int]
    """Number of other peers' messages that this peer did not use, by reason."""
