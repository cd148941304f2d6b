"""What a peer says of where it stands."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch

from p2ptrain.run import NO_DIGEST, RunSpec, digest_of
from p2ptrain.run.head import Head
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.optimizer import OneByteSPSA
from p2ptrain.spsa.replica import Piece, Replica
from p2ptrain.spsa.state import MasterState
from p2ptrain.state.logs import Log
from tests.unit.diloco.samples import PEERS
from tests.unit.spsa.folders import WEIGHTS

LOG, MARK, HEARD = Log(PEERS[0], bytes(8)), digest_of(b"a mark's state"), digest_of(b"heard")


def test_a_mark_that_is_reached_after_the_end_does_not_change_the_state_that_a_peer_ended_with() -> None:
    layout, spec = MasterLayout.for_weights(WEIGHTS), RunSpec.custom("tests", method="spsa").spsa
    state = MasterState(layout, {}, layout.from_weights(WEIGHTS).numpy())
    exchange = SimpleNamespace(
        own_presence=SimpleNamespace(state=MARK),
        view=SimpleNamespace(digest=HEARD),
        flush=lambda: None,
        save=lambda state: None,
        pieces=lambda log, start, stop: [Piece(start, bytes(stop - start), 0)],
    )
    peer = object.__new__(OneByteSPSA)
    peer._replica = Replica(NO_DIGEST, spec, state, torch.device("cpu"))
    peer._exchange, peer._saved, peer._tell = cast(Any, exchange), None, lambda name, facts: None
    assert peer.head == Head(0, HEARD, MARK)
    peer.save()
    assert peer.head == Head(0, HEARD, state.digest)
    peer._move_to({LOG: 3})
    assert peer.head == Head(3, HEARD, MARK), "the saved state is of another position"
