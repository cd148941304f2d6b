"""libp2p addresses (multiaddrs) as text, and what they say. No function here reads files or the network.

/ip4/203.0.113.7/tcp/31337/p2p/<peer>                       a peer that others can dial
/ip4/203.0.113.7/tcp/31337/p2p/<relay>/p2p-circuit/p2p/<peer>   a peer behind a relay
"""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence

from hivemind.utils.multiaddr import Multiaddr

from p2ptrain.run import PeerId
from p2ptrain.text import first_line

CIRCUIT = "/p2p-circuit"
HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")
PORT = "[0-9]{1,5}"
MAX_KNOWN = 4096


def peer_of(address: str) -> PeerId:
    """The peer that an address leads to."""
    return PeerId(address.rpartition("/p2p/")[2])


def by_peer(addresses: Iterable[str]) -> dict[PeerId, list[str]]:
    """The addresses, sorted by the peer that they lead to."""
    found: dict[PeerId, list[str]] = defaultdict(list)
    for address in addresses:
        found[peer_of(address)].append(address)
    return dict(found)


def is_relayed(address: str) -> bool:
    """Whether the address leads through a relay."""
    return CIRCUIT in address


def relay_of(address: str) -> str:
    """The address of the relay in a relayed address."""
    return address.partition(CIRCUIT)[0]


def through(relay: str, peer: PeerId) -> str:
    """The relayed address of `peer`; `relay` is the relay's own address."""
    return f"{relay}{CIRCUIT}/p2p/{peer}"


def address_parts(address: str) -> tuple[str, str, int] | None:
    """(host, 'tcp' or 'udp', port) of an /ip4 or /ip6 multiaddr; None for every other one."""
    parts = address.strip("/").split("/")
    if len(parts) >= 4 and parts[0] in ("ip4", "ip6") and parts[2] in ("tcp", "udp") and re.fullmatch(PORT, parts[3]):
        return (parts[1], parts[2], port) if (port := int(parts[3])) < 2**16 else None
    return None


def what_is_wrong(address: str) -> str:
    """Why p2pd would not take an address to listen at or to announce; empty if it would."""
    try:
        Multiaddr(address)
    except Exception as error:  # each protocol of hivemind's parser fails in its own way
        return first_line(error)
    parts = address.strip("/").split("/")
    if parts[0] == "dnsaddr":  # a name whose records have the ports
        return ""
    is_complete = len(parts) >= 4 and parts[0] in HOSTS and parts[1] and parts[2] in ("tcp", "udp")
    return "" if is_complete else "it does not begin with a host and a TCP or UDP port"


def host_of(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address in an address; None if the address has a host name or leads through a relay."""
    parts = None if is_relayed(address) else address_parts(address)
    try:
        return ipaddress.ip_address(parts[0]) if parts else None
    except ValueError:
        return None


def is_loopback(address: str) -> bool:
    """Whether only this machine itself can use the address."""
    host = host_of(address)
    return host is not None and host.is_loopback


def likeliest_first(addresses: Iterable[str]) -> list[str]:
    """Each address once, the most useful for others first: public, relayed, private, this machine's own."""

    def rank(address: str) -> int:
        host = host_of(address)
        if is_relayed(address):
            return 1
        if host is None or host.is_global:
            return 0
        return 3 if host.is_loopback else 2

    return sorted(dict.fromkeys(addresses), key=rank)


class AddressBook(OrderedDict[PeerId, tuple[str, ...]]):
    """Where peers say that others can reach them, the latest last; the oldest entries are forgotten. Write to it with
    `learn` only. It holds every peer if `of_all`, otherwise only peers that use relays."""

    def __init__(self, of_all: bool = False) -> None:
        super().__init__()
        self._of_all = of_all

    def learn(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Remember the addresses that a peer has now; they replace its earlier ones."""
        self.pop(peer, None)
        if any(map(is_relayed, addresses)) or (self._of_all and addresses):
            self[peer] = tuple(addresses)
            if len(self) > MAX_KNOWN:
                self.popitem(last=False)

    def relays(self) -> dict[PeerId, list[str]]:
        """The relays that peers use and the addresses of those, the latest first."""
        told = (address for addresses in reversed(self.values()) for address in addresses)
        return by_peer(dict.fromkeys(relay_of(address) for address in told if is_relayed(address)))
