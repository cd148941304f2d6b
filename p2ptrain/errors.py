"""The errors that p2ptrain expects. Each says what happened, why, and what to do next, and has an exit code.

The command line prints an error as three short lines and exits with its code. The Python API raises it.
`docs/exit-codes.md` explains each code.
"""

from __future__ import annotations

from typing import ClassVar


class P2PTrainError(Exception):
    """The base of all errors.

    Args:
        what: one sentence that says what happened.
        why: the cause; empty if it is unknown or clear from `what`.
        next_step: what the reader can type or do now.
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
    """An option or an argument, also of the Python API, is malformed or contradicts another one or the run.

    Errors that click itself finds in a command line have the same exit code.
    """

    exit_code = 2


class SpecError(P2PTrainError):
    """A run spec is wrong, or an option that sets one of its fields."""

    exit_code = 3


class IdentityError(P2PTrainError):
    """A key file can't be used: another process uses it, it can't be read, or it holds no key."""

    exit_code = 4


class NetworkError(P2PTrainError):
    """The swarm can't be reached, or this machine can't listen."""

    exit_code = 5


class InviteError(P2PTrainError):
    """An invite can't be read, or it is for something else."""

    exit_code = 6


class DataError(P2PTrainError):
    """The model, the tokenizer or the data of a run can't be loaded here."""

    exit_code = 7


class StorageError(P2PTrainError):
    """A file or folder can't be written or read, is damaged, or does not hold what was asked for."""

    exit_code = 8


class TrainingError(P2PTrainError):
    """Training on this peer can't go on, e.g. the loss became NaN."""

    exit_code = 9


class LedgerError(P2PTrainError):
    """This peer and the others do not have the same state, or a ledger does not prove its state."""

    exit_code = 10


class AccessError(P2PTrainError):
    """A private run does not let this peer in, or only an owner may do this."""

    exit_code = 12


class MemoryLimitError(P2PTrainError):
    """There is not enough memory, or the volunteer does not allow enough. What was trained is saved."""

    exit_code = 15


class MalformedError(P2PTrainError):
    """Bytes from the network or the disk are malformed. They were not used."""

    exit_code = 11
