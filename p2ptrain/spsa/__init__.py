"""One-byte SPSA: peers exchange one byte for each gradient, in any order, and can take any of them back.

The mathematics (`signs`, `byte`, `kernels`, `master`), the grammar of the ledger (`batch`, `logbook`), this peer's copy
of the run (`replica`, `marks`), the network shell (`exchange`), and what a user wraps (`optimizer`).
"""

from p2ptrain.spsa.optimizer import OneByteSPSA

__all__ = ["OneByteSPSA"]
