"""Every error a person can meet: what happened, why, what to do next, and the exit code that a script sees.

The command line prints one as three short lines and exits with its code; the Python API raises it.
`docs/exit-codes.md` has a paragraph for each code.
"""

from __future__ import annotations

from typing import ClassVar


class P2PTrainError(Exception):
    """The base of all of them.

    Args:
        what: one sentence that says what could not be done.
        why: the cause, as far as it is known.
        next_step: what the reader can do now.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.next_step = what, why, next_step

    @property
    def brief(self) -> str:
        """What and why, in one line."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why:  {self.why}")
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        return "\n".join(lines)


class UsageError(P2PTrainError):
    """The command line, or an argument of the Python API, is malformed, or contradicts another one or the run.

    What click itself finds wrong with a command line ends with the same exit code.
    """

    exit_code = 2


class SpecError(P2PTrainError):
    """A run spec, or a flag that stands for one of its fields, is wrong."""

    exit_code = 3


class IdentityError(P2PTrainError):
    """An identity file can't be used: taken by another process, unreadable or not a key."""

    exit_code = 4


class NetworkError(P2PTrainError):
    """The swarm can't be reached or this machine can't listen."""

    exit_code = 5


class InviteError(P2PTrainError):
    """An invite link can't be read or is for something else."""

    exit_code = 6


class DataError(P2PTrainError):
    """The model, tokenizer or data that a run names can't be loaded here."""

    exit_code = 7


class StorageError(P2PTrainError):
    """A run folder can't be written, read or trusted."""

    exit_code = 8


class TrainingError(P2PTrainError):
    """Training on this peer can't go on, e.g. the loss became NaN."""

    exit_code = 9


class LedgerError(P2PTrainError):
    """This peer and the swarm can't agree on the state of the run."""

    exit_code = 10


class AccessError(P2PTrainError):
    """Who takes part and who decides it: a peer that a private run does not let in, a key that is no owner's."""

    exit_code = 12


class MemoryLimitError(P2PTrainError):
    """The memory that the volunteer allows, or that there is, does not suffice; what was trained is saved."""

    exit_code = 15


class MalformedError(P2PTrainError):
    """Bytes from the network or the disk are not what they should be; they were not used."""

    exit_code = 11
