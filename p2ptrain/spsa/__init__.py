"""One-byte SPSA: peers exchange one byte for each gradient, in any order, and can take any of them back.
The mathematics (`signs byte kernels master`), the grammar of the ledger (`messages position logbook archive`), this peer's
copy of the run (`state snapshots replica estimator audit`), the network side (`shell reconcile marks join`), what a
user wraps (`optimizer exchange view`), what a peer asks of it (`method trainer history`).
"""

from p2ptrain.spsa.optimizer import OneByteSPSA

__all__ = ["OneByteSPSA"]
