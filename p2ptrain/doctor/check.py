"""What all checks of the doctor share: the options, and what happens when a check fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.doctor.verdicts import Finding
from p2ptrain.errors import P2PTrainError


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """The options that the peer would be started with. None means the peer's own default."""

    invite: str | None = None
    home: Path | None = None
    identity: Path | None = None
    listen: tuple[str, ...] | None = None
    announce: tuple[str, ...] = ()
    device: str = "auto"

    @property
    def home_or_default(self) -> Path:
        from p2ptrain.state.home import default_home

        return self.home or default_home()


def checked(name: str, check: Callable[[], Finding]) -> Finding:
    """Run a check. If it raises an error, the finding is a problem that tells the error."""
    try:
        return check()
    except P2PTrainError as error:
        return failed(name, error)
    except Exception as error:  # the other checks still have to run
        text = f"this check failed: {type(error).__name__}: {_flat(str(error))}"
        return Finding(name, "problem", text, "p2ptrain explain 1")


def failed(name: str, error: P2PTrainError) -> Finding:
    """An error as a finding, with the error's own next step."""
    return Finding(name, "problem", _flat(error.brief), _flat(error.next_step) or f"p2ptrain explain {error.exit_code}")


def _flat(text: str) -> str:
    return " ".join(text.split())[:400]
