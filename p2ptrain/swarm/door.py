"""The door decides who may talk with this peer: everyone in a public run, only members in a private one.

`Door` is open to everyone; `PrivateDoor` (`private_door.py`) decides by certificates. Calls, the directory's calls and
gossip ask the door three things: `refusal` (may this peer ask us?), `meet` (may we ask that peer?), and `seal` with
`unseal` (how gossip is encrypted). Nodes and calls know a door only as a `Gate` (`daemon.py`).
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
    """Whether only members may speak with this peer."""
    expelled: AccessError | None = None
    """Why this peer is not a member any more; None while it is one."""

    async def attach(self, node: Node, rpc: Rpc) -> None:
        """Serve the calls of the door. Called once the node runs, before it serves any other call."""

    async def enter(self, peers: set[PeerId]) -> set[PeerId]:
        """Introduce this peer to the first peers; returns those of them that belong to the swarm. Raises AccessError if
        they refuse this peer."""
        return peers

    async def keep(self) -> None:
        """The door's regular work; runs for as long as the node runs."""

    def save(self) -> None:
        """Write to disk what the door has learned."""

    def refusal(self, peer: PeerId) -> str:
        """Why this peer gets no answer; empty if it gets one."""
        return ""

    async def meet(self, peer: PeerId, again: bool = False) -> None:
        """Make sure, before a call to a peer, that both sides belong to the run; raises RpcError if one does not.

        Args:
            again: introduce this peer once more, since the other one has answered that it does not know it.
        """

    def knows(self, peer: PeerId) -> bool:
        """Whether the run may keep what this peer has signed: it is a member, or was one."""
        return True

    def is_out(self, peer: PeerId) -> bool:
        """Whether a peer was a member and is not any more, whatever certificate it shows now."""
        return False

    # Gossip ----------------------------------------------------------------------------------------------------------

    kinds: frozenset[str] = frozenset()
    """The kinds of gossip records that the door itself reads (`hear`)."""

    def seal(self, topic: str, message: bytes) -> bytes | None:
        """The bytes that are sent for this message; None if it can't be sent now."""
        return message

    def unseal(self, topic: str, origin: PeerId, data: bytes) -> bytes:
        """The message in these bytes; raises MalformedError if no member can have sent it."""
        return data

    def hear(self, data: bytes) -> None:
        """Read a record of one of `kinds`; raises MalformedError."""

    def publish_with(self, publish: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand over the function that sends to the run's topic."""

    @property
    def summary(self) -> bytes:
        """A few bytes. Two peers' summaries differ when one of them knows something that the other does not."""
        return b""

    def compare(self, peer: PeerId, summary: bytes) -> None:
        """Compare this peer's summary with the one that `peer` has sent."""
