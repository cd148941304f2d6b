"""What a method must give, so that no other room asks which method a run has."""

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
"""Called on the network thread with the name and the facts of something that has happened."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class History:
    """What a run folder knows about the run so far."""

    facts: Sequence[Mapping[str, object]]
    """For programs: each has an "event" and its details."""
    shown: Sequence[Table | str]
    """The same for people."""


@dataclass(frozen=True, slots=True)
class Credit:
    """One peer's work in a state."""

    peer: str
    contributions: int
    """Contributions of DiLoCo, or records of one-byte SPSA that count."""
    tokens: int
    """0 if the method does not count tokens."""
    share: float
    """Between 0 and 1, of all peers' work."""


@dataclass(frozen=True, slots=True)
class PastState:
    """A state of the run, for an export."""

    head: Head
    words: str
    """The position for people, e.g. "height 12"."""
    parameters: Mapping[str, torch.Tensor]
    """Trained weights by the bare model's names, float32, on the CPU."""
    manifest: Record
    """The record that the state's digest names."""
    heights_known: tuple[int, int]
    """The first and the last height that `credits` counts."""
    credits: Sequence[Credit]
    weights: str = ""
    """Hex digest of the exported weights; empty if the manifest names them."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What an export says about its weights. A stranger may have written it."""

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
    """About how many bytes in `every` inner steps; None if this is not known in advance."""
    every: int


@dataclass(frozen=True, slots=True)
class Method:
    """One way to train a run together, for callers that need not know which one it is.

    There are two, in `diloco.method` and `spsa.method`. `peer/methods.py` chooses one by the run's spec.
    """

    trainer: Callable[[Run, Task, Tell, Callable[[], bool]], Trainer]
    """Founds, joins or resumes the run. The last argument is asked whenever the trainer would wait for others; once it
    returns True, nothing waits any more. Raises P2PTrainError: no peer to join, another model, a full disk, …"""
    as_event: Callable[[str, Mapping[str, Any]], events.Event | None]
    """What people are told when `Tell` is called with these arguments; None if nothing."""
    traffic: Callable[[RunSpec, int | None], Traffic]
    """What a peer sends, by the number of trained parameters; None as long as that number is not known."""
    alone: Callable[[RunSpec, Task], Callable[[int], None]]
    """Makes a function that trains step number n without any network, to measure this machine's speed."""
    history: Callable[[RunFolder], History]
    """Who has contributed what and when, and what was taken back."""
    audit: Callable[[RunFolder, int | None], Iterator[Check]]
    """Checks every digest and signature of a folder, and replays its ledger from the snapshot of a height; from the
    oldest snapshot if that is None. Raises StorageError: there is no snapshot of that height."""
    state_at: Callable[[RunFolder, torch.nn.Module, int | None], PastState]
    """The state of a height, or the newest one that the folder's ledger leads to if that is None. Raises StorageError:
    the folder has no such state, or it can't be computed here."""
    check_weights: Callable[[RunSpec, Claim, Mapping[str, torch.Tensor], Digest | None], Check]
    """Checks whether an export's weights are those of the state that it names. Given are its trained weights by name
    (float32) and the digest of its untrained ones; None if they can't be told apart. Raises MalformedError: the
    claim's manifest can't be decoded."""
    check_against: Callable[[RunFolder, Claim], Check]
    """Checks whether the folder's ledger leads to the claimed state."""
