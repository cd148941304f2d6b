"""One volunteer's peer: what it may take of the machine (`Volunteer`), and its process, which begins, trains, pauses,
saves and leaves (`run_peer`).

`run_peer` is loaded when first used: it brings torch along, which the command line and a bootstrap node spare.
"""

from typing import TYPE_CHECKING, Any

from p2ptrain.peer.volunteer import Volunteer

if TYPE_CHECKING:
    from p2ptrain.peer.session import run_peer

__all__ = ["Volunteer", "run_peer"]


def __getattr__(name: str) -> Any:
    """`doctor` must be able to find torch broken."""
    if name != "run_peer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from p2ptrain.peer.session import run_peer

    return run_peer
