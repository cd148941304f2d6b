"""The peer process: wires swarm, method and task together; the training loop, signals, and the other things that a
process can be (a bootstrap node, an observer, the demo).

The names below are loaded when first used: a bootstrap node, which trains nothing, loads nothing of training.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2ptrain.peer.session import PeerOptions, run_peer

__all__ = ["PeerOptions", "run_peer"]


def __getattr__(name: str) -> Any:
    """They bring torch along, which `doctor` must be able to find broken."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from p2ptrain.peer import session

    return getattr(session, name)
