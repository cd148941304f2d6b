"""p2ptrain: train one language model together, peer to peer, with no coordinator.

    run = p2ptrain.Run.found("run.toml")            # or Run.join("p2ptrain://…"), or Run.resume(folder)
    diloco = p2ptrain.StreamingDiLoCo(model, optimizer, run)
    spsa = p2ptrain.OneByteSPSA(model, loss_fn, run)

Importing this package imports nothing else: each name below is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2ptrain.diloco import StreamingDiLoCo
    from p2ptrain.run import RunSpec
    from p2ptrain.spsa import OneByteSPSA
    from p2ptrain.state.run import Run
    from p2ptrain.swarm import Swarm

__all__ = ["OneByteSPSA", "Run", "RunSpec", "StreamingDiLoCo", "Swarm"]

_HOMES = {
    "OneByteSPSA": "p2ptrain.spsa",
    "Run": "p2ptrain.state.run",
    "RunSpec": "p2ptrain.run",
    "StreamingDiLoCo": "p2ptrain.diloco",
    "Swarm": "p2ptrain.swarm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
