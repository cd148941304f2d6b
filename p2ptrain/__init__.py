"""p2ptrain: train one language model together, peer to peer, with no coordinator.

    run = p2ptrain.Run.found("run.toml")            # or Run.join("p2ptrain://…"), or Run.resume(folder)
    diloco = p2ptrain.StreamingDiLoCo(model, optimizer, run)
    spsa = p2ptrain.OneByteSPSA(model, loss_fn, run)

Each error is a `p2ptrain.P2PTrainError`, or a subclass of it that is here, too.

Importing this package imports nothing else: each name below is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2ptrain.diloco import StreamingDiLoCo
    from p2ptrain.errors import (
        AccessError,
        DataError,
        IdentityError,
        InviteError,
        LedgerError,
        MalformedError,
        MemoryLimitError,
        NetworkError,
        P2PTrainError,
        SpecError,
        StorageError,
        TrainingError,
        UsageError,
    )
    from p2ptrain.run import RunSpec
    from p2ptrain.spsa import OneByteSPSA
    from p2ptrain.state.run import Run
    from p2ptrain.swarm import Swarm

__all__ = [
    "AccessError",
    "DataError",
    "IdentityError",
    "InviteError",
    "LedgerError",
    "MalformedError",
    "MemoryLimitError",
    "NetworkError",
    "OneByteSPSA",
    "P2PTrainError",
    "Run",
    "RunSpec",
    "SpecError",
    "StorageError",
    "StreamingDiLoCo",
    "Swarm",
    "TrainingError",
    "UsageError",
]

_ERRORS = {name: "p2ptrain.errors" for name in __all__ if name.endswith("Error")}
_HOMES = {
    "OneByteSPSA": "p2ptrain.spsa",
    "Run": "p2ptrain.state.run",
    "RunSpec": "p2ptrain.run",
    "StreamingDiLoCo": "p2ptrain.diloco",
    "Swarm": "p2ptrain.swarm",
    **_ERRORS,
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
