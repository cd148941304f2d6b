"""What every check of the doctor's needs: how it was asked, and what becomes of a check that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.doctor.verdicts import Finding
from p2ptrain.errors import P2PTrainError


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """What the peer would be started with; None: as the peer would choose."""

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
    """What the check finds; or, as a problem, that it failed."""
    try:
        return check()
    except P2PTrainError as error:
        return failed(name, error)
    except Exception as error:  # a doctor does not fall ill
        text = f"this check failed: {type(error).__name__}: {_flat(str(error))}"
        return Finding(name, "problem", text, "p2ptrain explain 1")


def failed(name: str, error: P2PTrainError) -> Finding:
    return Finding(name, "problem", _flat(error.brief), _flat(error.next_step) or f"p2ptrain explain {error.exit_code}")


def _flat(text: str) -> str:
    return " ".join(text.split())[:400]
