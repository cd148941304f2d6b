"""What happens when a check of the doctor fails."""

from __future__ import annotations

from collections.abc import Callable

from p2ptrain.doctor.verdicts import Finding
from p2ptrain.errors import P2PTrainError


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
