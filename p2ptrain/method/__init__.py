"""The seam of methods: what each of them gives (`contract`, `trainer`), and what they share: where a peer's two threads
meet (`exchange`, `background`), how a newcomer finds a state (`joining`), how snapshots are kept (`shelf`).

A third method is a package beside `diloco` and `spsa` that keeps this contract, and one line in `peer/methods.py`.
"""

from p2ptrain.method.background import Background
from p2ptrain.method.contract import Claim, Credit, History, Method, PastState, Table, Tell, Traffic
from p2ptrain.method.exchange import Exchange, trainers_of
from p2ptrain.method.joining import AnotherModel, Offer, find_snapshot, hear_peers
from p2ptrain.method.shelf import Shelf
from p2ptrain.method.trainer import SharedOptimizer, Trainer

__all__ = [
    "AnotherModel",
    "Background",
    "Claim",
    "Credit",
    "Exchange",
    "History",
    "Method",
    "Offer",
    "PastState",
    "SharedOptimizer",
    "Shelf",
    "Table",
    "Tell",
    "Traffic",
    "Trainer",
    "find_snapshot",
    "hear_peers",
    "trainers_of",
]
