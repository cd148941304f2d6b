"""One peer's part in the rounds of a run: the trainer contributes, and reads the view of the head. It waits for others
only where the spec says so (overlap = n). See `method.exchange` for how the trainer's thread meets the network thread.
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
    """See `method.Exchange`.

    Args:
        report: what the trainer says of itself; called on the network thread.
        tell: called on the network thread with a name and facts of what happened.
    """

    _shell: Shell

    def __init__(self, run: Run, layout: Layout, report: Callable[[], Vitals], tell: Tell) -> None:
        super().__init__(run)
        self._shell = Shell(run, layout, report, self._show, tell)

    def start(self, base: GlobalState, stop: Callable[[], bool]) -> None:
        """Resume, found or join the run; `base` is the state at height 0 as this peer would build it.

        Returns when there is a state to start from, or `stop` says so; `view.caught_up` tells when it is the swarm's.
        """
        self.view = View(base)
        self._await(self._shell.start(self.view), stop)

    def contribute(self, height: int, base: Digest, data: bytes, tokens: int, steps: int) -> Digest:
        """Offer an encoded pseudo-gradient to the round of `height`; returns its digest at once."""
        payload = digest_of(data)
        offer = Contribution(
            author=self._swarm.peer_id,
            run=self._run.id,
            height=height,
            base=base,
            payload=payload,
            size=len(data),
            tokens=tokens,
            steps=steps,
        ).signed(self._swarm.key)
        self._hand_over(lambda: self._shell.offer(offer, data))
        return payload

    @property
    def hurry(self) -> int:
        """The height for which others wait: contribute what there is."""
        return self._shell.hurry

    def everyone_is_at(self, head: Head) -> bool:
        """Whether every live peer has said that it is at this head."""
        return all(presence.commit == head.commit for presence in self.peers.values())
