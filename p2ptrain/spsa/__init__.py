"""One-byte SPSA. The mathematics (`signs byte kernels master`), the grammar of the ledger (`messages position logbook
archive`), this peer's copy of the run (`state snapshots replica estimator audit`), the network side (`shell reconcile
marks join`), what a user wraps (`optimizer exchange view`), what a peer asks of it (`method trainer history`).
A record, the one byte of a measurement, begins in `optimizer` and ends in `replica`.
"""

from p2ptrain.spsa.optimizer import OneByteSPSA

__all__ = ["OneByteSPSA"]
