"""One libp2p node: hivemind's daemon process (p2pd), streams and gossip, on the caller's asyncio loop.

This adds to hivemind's `P2P`: gossipsub (hivemind has its messages, but no call for it), a folder for sockets that is
cleaned after a crash, and errors that say what, why and what next. All bytes that enter a stream or the gossip are
counted there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio.staggered import staggered_race
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hivemind.p2p import P2P
from hivemind.p2p.p2p_daemon_bindings.utils import read_pbmsg_safe, write_pbmsg
from hivemind.proto import p2pd_pb2
from hivemind.utils.multiaddr import Multiaddr

from p2ptrain.errors import NetworkError
from p2ptrain.run import PeerId
from p2ptrain.run.keys import peer_id_from_bytes, peer_id_to_bytes
from p2ptrain.run.record import MAX_RECORD_BYTES
from p2ptrain.swarm import addresses as at
from p2ptrain.swarm.config import NodeConfig
from p2ptrain.swarm.daemon import Gate, daemon_type
from p2ptrain.swarm.identity import Identity
from p2ptrain.swarm.patience import Shared, ask_all
from p2ptrain.swarm.relay import RELAY, TUNNEL, Relay, Stream, StreamHandler, Tunnels
from p2ptrain.swarm.seal import OVERHEAD
from p2ptrain.swarm.sockets import SocketFolder, check_port

MAX_GOSSIP_BYTES = MAX_RECORD_BYTES + OVERHEAD
DIAL_TIMEOUT = 15.0
DIAL_SECONDS = 40.0
"""For the peers of an invite, tried directly and then through two relays."""
NEXT_ADDRESS_SECONDS = 0.5
"""After that time without an answer, a peer's next address is tried, too."""
HEAD_START = 4.0
"""Seconds that a direct connection gets before a relay is tried."""
TOLD_RELAYED = 3
"""How many relayed addresses of this peer others are told."""
RELAYS_TRIED = 2
CLOSE_TIMEOUT = 5.0
FIND_SECONDS = 2

log = logging.getLogger(__name__)

READ_AHEAD = 1024 * 1024
"""Bytes of a stream that asyncio keeps until they are read. With its default, 64 KiB, p2pd would have to stop several
times in each chunk."""


class ControlError(RuntimeError):
    """p2pd could not do what it was asked, e.g. reach a peer. The text is p2pd's own."""


@dataclass(frozen=True, slots=True)
class Gossip:
    """One message of a topic. libp2p has checked that `origin` sent it."""

    origin: PeerId
    data: bytes


class Node:
    """A running node. Create it with `start`, on the event loop that will use it."""

    def __init__(
        self, daemon: P2P, peer_id: PeerId, sockets: SocketFolder, config: NodeConfig, book: at.AddressBook
    ) -> None:
        self.daemon, self.peer_id, self._sockets, self._config = daemon, peer_id, sockets, config
        self.sent: Counter[str] = Counter()
        """Bytes that this node has sent into streams and gossip, by what they were for."""
        self.relays: dict[PeerId, list[str]] = {}
        """The relays through which others reach this peer, and their addresses."""
        self.relay: Relay | None = None
        """What carries tunnels for others; None if this node is no relay."""
        self._tunnels = Tunnels(self)
        self.book = book
        """Addresses of peers that p2pd can't find by itself; `open_stream` connects to them."""
        self._dialling = Shared()

    @classmethod
    async def start(cls, identity: Identity, config: NodeConfig, gate: Gate) -> Node:
        """Start p2pd and connect to the swarm.

        Raises:
            UsageError: an address to listen at is no multiaddr.
            NetworkError: this machine can't listen at an address, p2pd does not start, or no bootstrap peer answers.
        """
        for address in config.binds:
            check_port(address)
        sockets = SocketFolder.make()
        try:
            daemon = await daemon_type(sockets, gate, config.daemon_flags).create(
                host_maddrs=list(config.binds),
                announce_maddrs=list(config.announce) or None,
                identity_path=str(identity.path),
                check_if_identity_free=False,  # our lock does that; hivemind's check knows RSA keys only
                use_relay=False,  # `relay.py` says why
                # p2pd has a DHT of its own, which tells anybody where peers are. It does not tell a client's addresses.
                dht_mode="client" if config.no_listen or gate.is_private else "server",
                nat_port_map=not config.local and not config.no_listen,
            )
        except Exception as error:  # of hivemind, of the system, or p2pd's own last words
            sockets.remove()
            raise _did_not_start(str(error)) from None
        except BaseException:
            sockets.remove()
            raise
        node = cls(daemon, identity.peer_id, sockets, config, at.AddressBook(of_all=gate.is_private))
        try:
            await node.handle(TUNNEL, node._tunnels.arrive)
            if config.relay:
                node.relay = Relay(node, config.relay)
                await node.handle(RELAY, node.relay.serve)
            await node._dial(config.bootstrap)
        except BaseException:
            await node.close()
            raise
        return node

    async def close(self) -> None:
        """End p2pd, hard if it does not end by itself, and remove the sockets."""
        await self._tunnels.close()
        child = self.daemon._child
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.daemon.shutdown(), CLOSE_TIMEOUT)
        if child is not None and child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
        self._sockets.remove()

    async def watch(self) -> None:
        """Wait until p2pd ends by itself; raises NetworkError then."""
        reason = f"the libp2p daemon (p2pd) ended with status {await self.daemon._child.wait()}"
        resume = "start the peer again; it resumes where it stopped"
        raise NetworkError("the connection to the swarm is lost", reason, resume)

    @property
    def daemon_pid(self) -> int:
        """The process id of p2pd."""
        return int(self.daemon._child.pid)

    # Addresses -----------------------------------------------------------------------------------------------------

    async def addresses(self) -> list[str]:
        """Where others can reach this node, each ending in /p2p/<peer id>; the most useful first."""
        direct = [] if self._config.no_listen else [f"{place}/p2p/{self.peer_id}" for place in await self._places()]
        relayed = [at.through(place, self.peer_id) for places in self.relays.values() for place in places]
        return at.likeliest_first((*direct, *relayed[:TOLD_RELAYED]))

    async def own_place(self) -> tuple[str, int]:
        """The host and the TCP port at which this process reaches its own p2pd."""
        parts = map(at.address_parts, await self._places())
        host, _, port = next(found for found in parts if found and found[1] == "tcp")
        return host, port

    async def _places(self) -> list[str]:
        async with self._control(type=p2pd_pb2.Request.IDENTIFY) as (_, _, answer):
            return [str(Multiaddr(address)) for address in answer.identify.addrs]

    async def connected(self) -> set[PeerId]:
        """The peers that this node has a connection with."""
        return {peer for peer, _ in await self.connections()}

    async def connections(self) -> list[tuple[PeerId, bytes]]:
        """For each connection: the peer, and the binary multiaddr of its end."""
        found: list[tuple[PeerId, bytes]] = []
        async with self._control(type=p2pd_pb2.Request.LIST_PEERS) as (_, _, answer):
            for info in answer.peers:
                with contextlib.suppress(ValueError):  # other software may use other kinds of keys
                    found += [(peer_id_from_bytes(info.id), address) for address in info.addrs]
        return found

    async def addresses_of(self, peer: PeerId) -> list[str]:
        """Where a connected peer says that it listens, each ending in /p2p/<peer id>. The peer may lie. Raises
        ControlError if p2pd knows no address of that peer."""
        find = p2pd_pb2.DHTRequest.FIND_PEER
        asked = p2pd_pb2.DHTRequest(type=find, peer=peer_id_to_bytes(peer), timeout=FIND_SECONDS)
        found = []
        async with self._control(type=p2pd_pb2.Request.DHT, dht=asked) as (_, _, answer):
            for address in answer.dht.peer.addrs:
                with contextlib.suppress(ValueError):  # a transport that this version does not know
                    found.append(f"{Multiaddr(address)}/p2p/{peer}")
        return found

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Open a connection with a peer, if there is none. Raises NetworkError if none of the addresses leads to that
        peer; its `why` says the reason for each."""
        if not any(map(at.is_relayed, addresses)):
            await self._connect_directly(peer, addresses, DIAL_TIMEOUT)
            return
        self.book.learn(peer, addresses)
        await self._dialling.join(peer, lambda: self._connect_somehow(peer, addresses))

    async def _connect_somehow(self, peer: PeerId, addresses: Sequence[str]) -> None:
        if peer in await self.connected():
            return None
        failures: list[str] = []
        direct = [address for address in addresses if not at.is_relayed(address)]
        if direct:
            try:
                return await self._connect_directly(peer, direct, HEAD_START)
            except NetworkError as error:
                failures.append(error.why)
        relays = at.by_peer(at.relay_of(address) for address in addresses if at.is_relayed(address))
        for relay in [relay for relay in relays if relay != self.peer_id][:RELAYS_TRIED]:
            try:
                await self._connect_directly(relay, relays[relay], DIAL_TIMEOUT)
                return await self._connect_directly(peer, [await self._tunnels.open(relay, peer)], DIAL_TIMEOUT)
            except NetworkError as error:
                failures.append(error.brief)
        raise NetworkError(f"can't connect to {peer}", "; ".join(failures))

    async def _connect_directly(self, peer: PeerId, addresses: Sequence[str], seconds: float) -> None:
        """Try one address after the other. p2pd would dial all at once. Often two of them answer; then it closes one of
        the two connections, and if gossip was about to use that one, both peers stay silent for each other."""
        try:
            async with asyncio.timeout(seconds):
                turns = [[address] for address in addresses] or [[]]  # p2pd may know an address by itself
                attempts = [partial(self._dial_at, peer, turn, seconds) for turn in turns]
                _, winner, errors = await staggered_race(attempts, NEXT_ADDRESS_SECONDS)
        except TimeoutError:
            raise NetworkError(f"can't connect to {peer}", f"no answer in {seconds:.0f} s") from None
        if winner is None:
            for error in filter(None, errors):
                if not isinstance(error, ControlError | ValueError):  # ValueError: no multiaddr
                    raise error
            raise NetworkError(f"can't connect to {peer}", _dial_failure("\n".join(map(str, errors))))

    async def _dial_at(self, peer: PeerId, addresses: Sequence[str], seconds: float) -> None:
        bare = [Multiaddr(address.removesuffix("/p2p/" + peer)).to_bytes() for address in addresses]
        request = p2pd_pb2.ConnectRequest(peer=peer_id_to_bytes(peer), addrs=bare, timeout=int(seconds))
        async with self._control(type=p2pd_pb2.Request.CONNECT, connect=request):
            pass

    async def disconnect(self, peer: PeerId) -> None:
        """Close all connections with a peer, if there are any. The peer may open new ones."""
        request = p2pd_pb2.DisconnectRequest(peer=peer_id_to_bytes(peer))
        async with self._control(type=p2pd_pb2.Request.DISCONNECT, disconnect=request):
            pass

    async def _dial(self, bootstrap: Sequence[str]) -> None:
        peers = at.by_peer(bootstrap)
        if self.peer_id in peers:
            raise NetworkError(
                "the swarm's address is the address of this peer itself",
                f"this process uses the identity {self.peer_id}",
                "use another --identity, or run the command on another machine",
            )
        attempts = {peer: self.connect(peer, addresses) for peer, addresses in peers.items()}
        results = await ask_all(attempts, DIAL_SECONDS)
        failures = [result for result in results.values() if isinstance(result, BaseException)]
        if failures and len(failures) == len(results):
            reasons = "\n        ".join(getattr(failure, "why", str(failure)) for failure in failures)
            raise NetworkError(
                "nobody answers at the swarm's addresses",
                reasons,
                "check that a peer of the swarm is running and reachable, or ask for a newer invite",
            )
        for failure in failures:
            log.warning("%s", failure)

    # Streams -------------------------------------------------------------------------------------------------------

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        """Call `handler` for each stream that another peer opens with this protocol name; the stream is closed
        after."""

        async def serve(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(peer_id_from_bytes(info.peer_id.to_bytes()), reader, writer)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                log.debug("a %s stream broke: %s", protocol, error)
            finally:
                writer.close()

        await self.daemon.add_binary_stream_handler(protocol, serve)

    @contextlib.asynccontextmanager
    async def open_stream(self, peer: PeerId, protocol: str) -> AsyncIterator[Stream]:
        """Open a stream to a peer; connects to it first if needed. Raises ControlError if there is no connection, or
        the peer does not speak this protocol."""
        if peer in self.book and peer not in await self.connected():
            try:
                await self.connect(peer, self.book[peer])
            except NetworkError as error:
                raise ControlError(error.why) from None
        request = p2pd_pb2.StreamOpenRequest(peer=peer_id_to_bytes(peer), proto=[protocol])
        async with self._control(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=request) as (reader, writer, _):
            yield reader, writer

    @contextlib.asynccontextmanager
    async def _control(
        self, **request: Any
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, p2pd_pb2.Response]]:
        """A control connection to p2pd that has accepted `request`, with its answer. It is closed when the caller is
        cancelled; hivemind's own client leaves it open."""
        path = self.daemon._client.control.daemon_connector.control_maddr.value_for_protocol("unix")
        reader, writer = await asyncio.open_unix_connection(path, limit=READ_AHEAD)
        try:
            await write_pbmsg(writer, p2pd_pb2.Request(**request))
            response = p2pd_pb2.Response()
            await read_pbmsg_safe(reader, response)
            if response.type != p2pd_pb2.Response.OK:
                raise ControlError(response.error.msg)
            yield reader, writer, response
        finally:
            writer.close()

    # Gossip --------------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, data: bytes) -> None:
        """Send a message to everyone on the topic. Raises ValueError if it is too long for gossip (p2pd would drop it
        in silence), and ControlError if p2pd refuses it."""
        if len(data) > MAX_GOSSIP_BYTES:
            raise ValueError(f"{len(data)} bytes are too many for gossip")
        request = p2pd_pb2.PSRequest(type=p2pd_pb2.PSRequest.PUBLISH, topic=topic, data=data)
        async with self._control(type=p2pd_pb2.Request.PUBSUB, pubsub=request):
            self.sent["gossip"] += len(data)

    async def subscribe(self, topic: str) -> AsyncIterator[Gossip]:
        """The messages of a topic, until the caller stops or p2pd ends. This peer's own messages come back, too."""
        request = p2pd_pb2.PSRequest(type=p2pd_pb2.PSRequest.SUBSCRIBE, topic=topic)
        async with self._control(type=p2pd_pb2.Request.PUBSUB, pubsub=request) as (reader, _, _):
            while True:
                message = p2pd_pb2.PSMessage()
                try:
                    await read_pbmsg_safe(reader, message)
                    origin = peer_id_from_bytes(getattr(message, "from"))
                except asyncio.IncompleteReadError:
                    return
                except ValueError:
                    continue
                if len(message.data) <= MAX_GOSSIP_BYTES:
                    yield Gossip(origin, message.data)


def _did_not_start(message: str) -> NetworkError:
    """p2pd's last words as an error. What p2ptrain could look at before has been looked at: addresses, ports, the key
    and the folder for sockets."""
    why = message.rpartition("Daemon failed to start: ")[2].strip()
    if "Permission denied" in why or "Exec format error" in why or "No such file" in why:
        step = "install p2ptrain anew, for this kind of processor, on a disk that allows programs: pip install p2ptrain"
    elif why.endswith("seconds"):
        step = "this machine is very busy: try again"
    elif "listen" in why or "multiaddr" in why:
        step = "check the addresses in --listen and --announce"
    else:
        step = "see what this machine lacks: p2ptrain doctor"
    return NetworkError("the libp2p daemon (p2pd) did not start", "" if why == "None" else why, step)


def _dial_failure(message: str) -> str:
    """The first reason for each address in p2pd's reports of failed dials, which have one line for each attempt."""
    lines = [line.strip(" *") for line in message.splitlines()]
    reasons: dict[str, str] = {}
    for line in lines:
        if line.startswith("["):
            reasons.setdefault(line.partition("]")[0], line)
    return "; ".join(reasons.values()) or lines[0]
