"""Who may talk with this peer: everyone in a public run, members in a private one.

`Door` is the open one. Calls, the directory's calls, gossip and what others say there pass through its three questions:
`refusal` (may this peer ask anything of us?), `meet` (may we ask that one?) and `seal`/`unseal`. `PrivateDoor`
(`private_door.py`) answers them by certificates.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from p2ptrain.errors import AccessError
from p2ptrain.run import PeerId
from p2ptrain.swarm.node import Node
from p2ptrain.swarm.rpc import Rpc


class Door:
    """Open to everyone."""

    is_private = False
    expelled: AccessError | None = None
    """Why this peer is no member any more."""

    async def attach(self, node: Node, rpc: Rpc) -> None:
        """Begin to serve; called once the node runs, before anything else is served."""

    async def enter(self, peers: set[PeerId]) -> set[PeerId]:
        """Make oneself known to the first peers; returns those that belong to the swarm.

        Raises:
            AccessError: they refuse this peer.
        """
        return peers

    async def keep(self) -> None:
        """What has to be done for as long as the node runs."""

    def save(self) -> None:
        """Write down what was learned."""

    def refusal(self, peer: PeerId) -> str:
        """Why nothing is answered to a peer; empty if it is."""
        return ""

    async def meet(self, peer: PeerId, again: bool = False) -> None:
        """Before anything is asked of a peer: see that both sides belong to the run.

        Args:
            again: it did not know this one after all.

        Raises:
            RpcError: one of them does not.
        """

    def knows(self, peer: PeerId) -> bool:
        """Whether what this peer has signed may be part of the run's past."""
        return True

    def is_out(self, peer: PeerId) -> bool:
        """Whether a peer is known to have no place in the run any more, whatever it shows."""
        return False

    # Gossip ----------------------------------------------------------------------------------------------------------

    kinds: frozenset[str] = frozenset()
    """Kinds of records in the run's gossip that are the door's."""

    def seal(self, topic: str, message: bytes) -> bytes | None:
        """What goes over the wire; None: it can't be said just now."""
        return message

    def unseal(self, topic: str, origin: PeerId, data: bytes) -> bytes:
        """What was said; raises MalformedError if it is nothing that a member can have said."""
        return data

    def hear(self, data: bytes) -> None:
        """One of `kinds`; raises MalformedError."""

    def publish_with(self, publish: Callable[[bytes], Awaitable[None]]) -> None:
        """How to say something on the run's topic."""

    @property
    def summary(self) -> bytes:
        """A few bytes that differ from another peer's if one of the two has something to learn here."""
        return b""

    def compare(self, peer: PeerId, summary: bytes) -> None:
        """What `peer` has said of its own."""
