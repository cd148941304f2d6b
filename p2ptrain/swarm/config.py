"""How this machine takes part in the network, as its operator says."""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.swarm import addresses as at

NOWHERE = "/ip4/127.0.0.1/tcp/0"


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay does for others."""

    tunnels: int = 128
    """At once, in all."""
    per_peer: int = 16
    """At once, of one peer, whether it opened them or they lead to it."""
    seconds: int = 30 * 60
    """After so many a tunnel is ended; its opener replaces it before."""
    bytes: int = 4 * 2**30
    """After so many, both directions together, as well."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """How this machine takes part in the network; addresses are libp2p multiaddrs."""

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    announce: tuple[str, ...] = ()
    """Addresses to tell others instead of those that are seen here, e.g. of a forwarded port."""
    bootstrap: tuple[str, ...] = ()
    """Where to find the swarm, each ending in /p2p/<peer id>; empty: this node starts one."""
    no_listen: bool = False
    """Take no connections from outside: this peer opens all its connections, to others and to relays, itself."""
    relay: RelayLimits | None = None
    """What this node carries between peers that can't reach each other; None: nothing."""
    lan: bool = True
    """Look for peers of the run in the local network, and be found there."""
    passing: bool = False
    """This node only looks and is gone soon: others keep nothing of the DHT with it."""
    daemon_flags: tuple[tuple[str, str], ...] = ()
    """Further flags of p2pd, e.g. the limits of its relay; they win over those that follow from the rest."""

    @property
    def binds(self) -> tuple[str, ...]:
        """Where p2pd listens: for a peer that does not, at a port that only this machine sees, where tunnels end."""
        return (NOWHERE,) if self.no_listen else self.listen

    @property
    def local(self) -> bool:
        """Nobody but this machine is meant: no NAT, no relays."""
        return not self.no_listen and all(at.is_loopback(address) for address in self.listen)

    @property
    def searches_lan(self) -> bool:
        """Whether to speak in the local network: not if all that this node knows of is on this machine."""
        known = self.bootstrap if self.no_listen else self.listen
        return self.lan and not all(at.is_loopback(address) for address in known)
