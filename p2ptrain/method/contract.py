"""What a method must give, so that nobody outside of it asks which method a run has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from p2ptrain.method.trainer import Trainer
from p2ptrain.monitor import events
from p2ptrain.run import Digest, Record, RunSpec
from p2ptrain.run.head import Head
from p2ptrain.state import RunFolder
from p2ptrain.state.check import Check
from p2ptrain.state.run import Run
from p2ptrain.tasks import Task

Tell = Callable[[str, Mapping[str, Any]], None]
"""Called on the network thread with a name and facts of what has happened."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for people."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class History:
    """What a run folder knows of the run so far."""

    facts: Sequence[Mapping[str, object]]
    """For programs: each with an "event" and what belongs to it."""
    shown: Sequence[Table | str]
    """The same for people."""


@dataclass(frozen=True, slots=True)
class Credit:
    """What one peer has given to a state."""

    peer: str
    contributions: int
    """Contributions, or records that count."""
    tokens: int
    """0 where tokens are not counted."""
    share: float
    """Between 0 and 1, of everybody's."""


@dataclass(frozen=True, slots=True)
class PastState:
    """A state of the run, as it is exported."""

    head: Head
    words: str
    """The position for people, e.g. "height 12"."""
    parameters: Mapping[str, torch.Tensor]
    """Trained weights by the bare model's names, float32, on the CPU."""
    manifest: Record
    """What the state's digest names."""
    heights_known: tuple[int, int]
    """The heights that `credits` was counted over."""
    credits: Sequence[Credit]
    weights: str = ""
    """Hex digest of the exported numbers, where the manifest does not name them."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What an export says of its weights, as a stranger may have written it."""

    height: int
    commit: Digest
    state: Digest
    manifest: bytes
    weights: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a peer will send to each other peer."""

    words: str
    """For people; empty if it is not known yet."""
    bytes: int | None
    """About so many every `every` inner steps; None: unknown, or not to be told in advance."""
    every: int


@dataclass(frozen=True, slots=True)
class Method:
    """One way to train a run together: what it gives to whoever does not want to know which one it is.

    `diloco.method` and `spsa.method` make the two that there are. `peer/methods.py` chooses one by the run's spec.
    """

    trainer: Callable[[Run, Task, Tell, Callable[[], bool]], Trainer]
    """Founds the run, joins it or goes back to it. The last argument is asked whenever the trainer would wait for
    others; once it says True nothing waits any more. Raises P2PTrainError: nobody to join, another model, …"""
    as_event: Callable[[str, Mapping[str, Any]], events.Event | None]
    """What people are told when `Tell` is called with this; None: nothing."""
    traffic: Callable[[RunSpec, int | None], Traffic]
    """What a peer sends, for so many trained parameters; None: their number is not known yet."""
    alone: Callable[[RunSpec, Task], Callable[[int], None]]
    """Makes a function that trains step number n without any network, for measuring this machine's speed."""
    history: Callable[[RunFolder], History]
    """Who has given what and when, and what was taken back."""
    audit: Callable[[RunFolder, int | None], Iterator[Check]]
    """Checks every digest and signature of a folder, and replays its ledger from the snapshot of this height; from the
    oldest one if None. Raises StorageError: there is no snapshot of that height."""
    state_at: Callable[[RunFolder, torch.nn.Module, int | None], PastState]
    """The newest state that the folder's ledger leads to, or the one of a height. Raises StorageError: there is none,
    or it can't be computed here."""
    check_weights: Callable[[RunSpec, Claim, Mapping[str, torch.Tensor], Digest | None], Check]
    """Whether an export's weights are those of the state that it names. It is given its trained weights by name and the
    digest of its other weights (None: they can't be told apart any more). Raises MalformedError: a bad manifest."""
    check_against: Callable[[RunFolder, Claim], Check]
    """Whether the folder's ledger leads to the claimed state."""
