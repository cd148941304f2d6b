"""What a peer tells people and programs, one dataclass for each kind of news.

On a terminal they become tables, in a pipe plain lines, with --json one JSON object per line: `{"event": name, …}`
with the fields below.
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
    """What happens now, before this peer has its place in the run."""

    name: ClassVar[str] = "preparing"
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """A model, tokenizer or dataset that a peer is about to load."""

    what: str
    """Its name, path or kind, cleaned: these are strangers' words."""
    place: Literal["hub", "cache", "folder", "files", "here"]
    """Where it comes from: the hub; this machine's copy of what the hub had; a folder or files of this machine; made or
    found here, without any of these."""
    bytes: int | None = None
    """To download, or on this disk; None: unknown."""
    at_most: bool = False
    """`bytes` counts more than will be loaded."""
    streamed: bool = False
    """It is read while training; `bytes` is all of it."""
    licence: str = ""
    """As its author says; empty: unknown."""
    unknown: str = ""
    """Why size and licence are unknown."""


@dataclass(frozen=True, slots=True)
class Loading(Event):
    """What this peer is about to load for its run, told before any of it is loaded: a person can still leave."""

    name: ClassVar[str] = "loading"
    run_name: str
    run: str
    """Empty for a run that begins here."""
    founder: str
    description: str
    model: Part
    tokenizer: Part | None
    """None: the model's own."""
    data: Part
    parameters: int | None
    """Of the model; None: unknown."""
    parameters_at_least: bool
    """The embedding of a vocabulary that is not here yet comes on top."""
    trained: int | None
    """Those that are trained and exchanged; None: unknown."""
    method: Literal["diloco", "spsa"]
    state_bytes: int | None
    """Fetched from the run's peers, at most; None: unknown."""
    sent_bytes: int | None
    """About so many to each other peer, every `sent_every` inner steps; None: unknown."""
    sent_every: int
    code: str = NO_CODE


@dataclass(frozen=True, slots=True)
class Fetching(Event):
    """The run's state on its way here, about once a second."""

    name: ClassVar[str] = "fetching"
    bytes_here: int
    bytes_total: int
    seconds: float
    """Since the first bytes."""
    rate: float
    """Bytes per second since then; 0 if that is not known yet."""


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The peer has its place in the run: what others need to join, and where its files are."""

    name: ClassVar[str] = "started"
    run_name: str
    run: str
    peer: str
    invite: str
    """Empty of a private run: an owner makes those."""
    invite_with: str
    """Of a private run: what an owner types for that; empty if this peer is none."""
    folder: str
    device: str
    parameters: int
    """Trained ones."""
    held_out: str
    founded: bool


@dataclass(frozen=True, slots=True)
class Training(Event):
    """Caught up with the others; the first inner step comes next."""

    name: ClassVar[str] = "training"
    height: int
    commit: str
    state: str
    peers: int


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """Where training is, about once a second."""

    name: ClassVar[str] = "progress"
    steps: int
    seconds: float
    """Since the first inner step."""
    height: int
    loss: float | None
    learning_rate: float
    tokens_per_second: float
    peers: int
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class Committed(Event):
    """This peer's head is now this commit."""

    name: ClassVar[str] = "commit"
    height: int
    commit: str
    state: str
    leader: str
    attempt: int
    contributors: tuple[str, ...]
    steps: tuple[int, ...]
    """Inner steps behind each contribution."""
    tokens: int
    rolled_back: int


@dataclass(frozen=True, slots=True)
class RolledBack(Event):
    """This peer has left its branch for a heavier one. The old one stays in its ledger."""

    name: ClassVar[str] = "rollback"
    commits: int
    old: str
    new: str
    tokens: int
    """That count no more, all peers'."""
    own_tokens: int


@dataclass(frozen=True, slots=True)
class Replaying(Event):
    """Records on their way into this peer's weights, about once a second while there are many."""

    name: ClassVar[str] = "replaying"
    records_done: int
    records_total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Marked(Event):
    """The state at an agreed position of a one-byte run is on this disk, and its digest told to others."""

    name: ClassVar[str] = "mark"
    number: int
    records: int
    position: str
    """Digest of it: where it is equal, states are. In a partition two sides may have as many records, but others."""
    state: str


@dataclass(frozen=True, slots=True)
class Evaluated(Event):
    """How well the global weights of a height do on the held-out data."""

    name: ClassVar[str] = "evaluation"
    height: int
    loss: float
    """Nats per token; per example in a classification."""
    accuracy: float | None = None
    """Share of held-out examples whose label was found, in tasks with labels."""


@dataclass(frozen=True, slots=True)
class Paused(Event):
    """The peer trains no more for a while, and stays in the swarm."""

    name: ClassVar[str] = "paused"
    reason: str
    until: str | None
    """Local time at which it goes on, in ISO 8601; None if that depends on others."""


@dataclass(frozen=True, slots=True)
class WentOn(Event):
    """The pause is over."""

    name: ClassVar[str] = "resumed"
    seconds: float
    """That it took."""


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something that a person should know; training goes on."""

    name: ClassVar[str] = "warning"
    text: str


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """The last news: how it ended, what was exchanged and how to go on."""

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
    """Bytes that entered streams and gossip, framing included, by purpose."""
    refused: dict[str, int]
    """Others' messages that were not used, by reason."""
