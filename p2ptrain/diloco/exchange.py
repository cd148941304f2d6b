"""One peer's part in the rounds of a run: its trainer hands in contributions and reads the view of the head.

The trainer waits for others only if the spec says so (overlap = n). `method.exchange` says how the two threads meet.
"""

from __future__ import annotations

from collections.abc import Callable

from p2ptrain.diloco.chain import Contribution
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.shell import Shell
from p2ptrain.diloco.state import GlobalState
from p2ptrain.diloco.view import View
from p2ptrain.method import Exchange as SharedExchange
from p2ptrain.method import Tell
from p2ptrain.run import Digest, digest_of
from p2ptrain.run.head import Head
from p2ptrain.state.run import Run
from p2ptrain.swarm import Vitals


class Exchange(SharedExchange[View]):
    """See `method.Exchange`."""

    _shell: Shell

    def __init__(self, run: Run, layout: Layout, vitals: Vitals, tell: Tell, stop: Callable[[], bool]) -> None:
        super().__init__(run, vitals, stop)
        self._shell = Shell(run, layout, lambda: self.vitals, self._show, tell)

    def start(self, base: GlobalState) -> None:
        """Resume, found or join the run. Returns when there is a state to start from, or when `stop` returns True.

        `view.caught_up` tells whether this peer has caught up with the others.

        Args:
            base: the state at height 0 as this peer would build it.

        Raises:
            P2PTrainError: the run can't be joined, or the disk or the network has failed.
        """
        self.view = View(base)
        self._await(self._shell.start(self.view))

    def contribute(self, height: int, base: Digest, data: bytes, tokens: int, steps: int) -> Digest:
        """Offer an encoded pseudo-gradient to the round of `height`. Returns its digest and does not wait."""
        payload, size, author, run = digest_of(data), len(data), self._swarm.peer_id, self._run.id
        offer = Contribution(
            author=author, run=run, height=height, base=base, payload=payload, size=size, tokens=tokens, steps=steps
        ).signed(self._swarm.key)
        self._hand_over(lambda: self._shell.offer(offer, data))
        return payload

    @property
    def hurry(self) -> int:
        """The last height for which a quorum of others has waited for this peer's contribution."""
        return self._shell.hurry

    def everyone_is_at(self, head: Head) -> bool:
        """Whether every live peer says that it is at this head."""
        return all(presence.commit == head.commit for presence in self.peers.values())
