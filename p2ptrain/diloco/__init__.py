"""Streaming DiLoCo: mathematics (`fragments codecs outer merge schedule`), the ledger and the rounds as a pure state
machine (`chain round events pace payloads`), this peer's copy of the run (`state snapshots replica rollback audit`),
the network side (`shell join gathering news`), what a user wraps around a model (`optimizer exchange view lanes`), and
the contract of `method` (`method trainer history`). A contribution begins in `optimizer` and ends in `outer`.
"""

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.optimizer import StreamingDiLoCo

__all__ = ["Commit", "Contribution", "StreamingDiLoCo"]
