"""Everything that touches the network, on one asyncio thread: the node (p2pd), typed calls, gossip, the directory of
peers and runs, heartbeats, identities and invites, and who may take part in a private run.

No room above this one imports hivemind, and this one imports only `run`.
"""

from p2ptrain.lean import spare_shared_memory

with spare_shared_memory():
    from p2ptrain.swarm.config import NodeConfig, RelayLimits
    from p2ptrain.swarm.identity import Identity
    from p2ptrain.swarm.invite import Invite
    from p2ptrain.swarm.membership import Listener, Membership, Vitals
    from p2ptrain.swarm.node import MAX_GOSSIP_BYTES
    from p2ptrain.swarm.presence import GONE_AFTER, HEARTBEAT_SECONDS, Phase, Presence, monotonic
    from p2ptrain.swarm.rpc import Refused, Rpc, RpcError
    from p2ptrain.swarm.swarm import Swarm, version

__all__ = [
    "GONE_AFTER",
    "HEARTBEAT_SECONDS",
    "MAX_GOSSIP_BYTES",
    "Identity",
    "Invite",
    "Listener",
    "Membership",
    "NodeConfig",
    "Phase",
    "Presence",
    "Refused",
    "RelayLimits",
    "Rpc",
    "RpcError",
    "Swarm",
    "Vitals",
    "monotonic",
    "version",
]
