"""Streaming DiLoCo. The mathematics (`fragments codecs outer merge schedule`), the grammar of its ledger and the rounds
as a pure state machine (`chain round events pace`), this peer's copy of the run (`state replica`), the network shell
(`exchange join`) and what a user wraps (`optimizer lanes`).
"""

from p2ptrain.diloco.chain import Commit, Contribution, Head
from p2ptrain.diloco.optimizer import StreamingDiLoCo

__all__ = ["Commit", "Contribution", "Head", "StreamingDiLoCo"]
