"""How this machine takes part in the network: what its operator has set."""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.errors import UsageError
from p2ptrain.swarm import addresses as at

NOWHERE = "/ip4/127.0.0.1/tcp/0"


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """How much a relay carries for others."""

    tunnels: int = 128
    """Tunnels that are open at the same time."""
    per_peer: int = 16
    """Tunnels, of all these, that one peer has opened or that lead to it."""
    seconds: int = 30 * 60
    """The relay ends a tunnel after this time; the peer that opened it opens a new one before."""
    bytes: int = 4 * 2**30
    """The relay also ends a tunnel after this many bytes, both directions together."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """How this machine takes part in the network; addresses are libp2p multiaddrs. Raises UsageError if one is none."""

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    announce: tuple[str, ...] = ()
    """Addresses to tell others instead of the ones that this machine sees, e.g. of a forwarded port."""
    bootstrap: tuple[str, ...] = ()
    """Addresses of peers of the swarm, each ending in /p2p/<peer id>; if empty, this node starts a new swarm."""
    no_listen: bool = False
    """Accept no connections from outside; this peer opens all its connections itself, to others and to relays."""
    relay: RelayLimits | None = None
    """How much this node carries between peers that can't reach each other; None: it is no relay."""
    lan: bool = True
    """Look for peers of the run in the local network, and let them find this one."""
    passing: bool = False
    """This node leaves again soon, so others store no DHT records with it."""
    daemon_flags: tuple[tuple[str, str], ...] = ()
    """More flags of p2pd; they replace the flags that follow from the other fields."""

    def __post_init__(self) -> None:
        """Look at the addresses before anything starts. p2pd itself says only that it did not start."""
        for word, addresses, like in (
            ("listen at", self.listen, "--listen /ip4/0.0.0.0/tcp/31337"),
            ("announce", self.announce, "--announce /ip4/203.0.113.7/tcp/31337"),
        ):
            for address in addresses:
                if wrong := at.what_is_wrong(address):
                    raise UsageError(f"can't {word} {address!r}", wrong, f"write it like {like}")

    @property
    def binds(self) -> tuple[str, ...]:
        """Where p2pd listens. With `no_listen`, that is a port that only this machine can reach; tunnels end there."""
        return (NOWHERE,) if self.no_listen else self.listen

    @property
    def local(self) -> bool:
        """Whether this node listens on this machine only, so that it needs neither NAT nor relays."""
        return not self.no_listen and all(at.is_loopback(address) for address in self.listen)

    @property
    def searches_lan(self) -> bool:
        """Whether to use the local network: not if every address that this node knows is on this machine."""
        known = self.bootstrap if self.no_listen else self.listen
        return self.lan and not all(at.is_loopback(address) for address in known)
