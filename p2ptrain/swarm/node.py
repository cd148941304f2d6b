"""One libp2p node: hivemind's daemon process (p2pd), streams and gossip, on the caller's asyncio loop.

What is added to hivemind's `P2P`: gossipsub (its bindings have the messages but no call), a session of its own for
p2pd so that Ctrl-C in a terminal reaches only us, sockets in a folder that is swept after a crash, and errors that say
what, why and what next. Everything that crosses a stream or the gossip is counted where it enters.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, read_pbmsg_safe, write_pbmsg
from hivemind.proto import p2pd_pb2
from hivemind.utils.logging import use_hivemind_log_handler
from hivemind.utils.multiaddr import Multiaddr

from p2ptrain.errors import NetworkError
from p2ptrain.run import PeerId
from p2ptrain.run.keys import peer_id_from_bytes
from p2ptrain.swarm.identity import Identity

MAX_GOSSIP_BYTES = 64 * 1024
DIAL_TIMEOUT = 15.0
CLOSE_TIMEOUT = 5.0

log = logging.getLogger(__name__)
use_hivemind_log_handler("nowhere")  # our own logging decides what people see
logging.getLogger("hivemind").addHandler(logging.NullHandler())


READ_AHEAD = 1024 * 1024
"""Bytes of a stream that wait to be read, at least: asyncio's 64 KiB would stop p2pd several times in each chunk."""


class ControlError(RuntimeError):
    """p2pd could not do what was asked, e.g. reach a peer; the text is its own."""


StreamHandler = Callable[[PeerId, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """How this machine takes part in the network; addresses are libp2p multiaddrs."""

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    announce: tuple[str, ...] = ()
    """Addresses to tell others instead of those that are seen here, e.g. of a forwarded port."""
    bootstrap: tuple[str, ...] = ()
    """Where to find the swarm, each ending in /p2p/<peer id>; empty: this node starts one."""


@dataclass(frozen=True, slots=True)
class Gossip:
    """One message of a topic. libp2p has checked that `origin` sent it."""

    origin: PeerId
    data: bytes


class _Daemon(P2P):  # type: ignore[misc]  # hivemind is not typed
    """hivemind's P2P with gossip and a session of its own."""

    @staticmethod
    def _make_process_args(*args: Any, **kwargs: Any) -> list[str]:
        # Python makes the session and then becomes p2pd, so the process id stays the child's.
        own_session = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"
        flags: list[str] = P2P._make_process_args(*args, pubsub=1, **kwargs)
        return [sys.executable, "-S", "-E", "-c", own_session, *flags]


class Node:
    """A running node. Make it with `start`, on the loop that will use it."""

    def __init__(self, daemon: P2P, peer_id: PeerId, sockets: _SocketFolder) -> None:
        self._daemon, self.peer_id, self._sockets = daemon, peer_id, sockets
        self.sent: Counter[str] = Counter()
        """Bytes that entered streams and gossip, by what they were for."""

    @classmethod
    async def start(cls, identity: Identity, config: NodeConfig) -> Node:
        """Start p2pd and connect to the swarm.

        Raises:
            NetworkError: can't listen at an address, p2pd does not start, or nobody answers.
        """
        for address in config.listen:
            check_port(address)
        sockets = _SocketFolder.make()
        local = all(_is_loopback(address) for address in config.listen)
        daemon_type: Any = type("Daemon", (_Daemon,), {"_UNIX_SOCKET_PREFIX": f"/unix{sockets.path}/"})
        try:
            daemon = await daemon_type.create(
                host_maddrs=list(config.listen),
                announce_maddrs=list(config.announce) or None,
                identity_path=str(identity.path),
                check_if_identity_free=False,  # our lock does that; hivemind's check knows RSA keys only
                trusted_relays=None
                if local
                else list(config.bootstrap) or None,  # p2pd panics on relays without autorelay
                use_auto_relay=bool(config.bootstrap) and not local,
                nat_port_map=not local,
            )
        except (P2PDaemonError, OSError, ValueError) as error:
            sockets.remove()
            raise NetworkError(
                "the libp2p daemon did not start",
                str(error).rpartition("Daemon failed to start: ")[2],
                "check the address in --listen",
            ) from None
        except BaseException:
            sockets.remove()
            raise
        node = cls(daemon, identity.peer_id, sockets)
        try:
            await node._dial(config.bootstrap)
        except BaseException:
            await node.close()
            raise
        return node

    async def close(self) -> None:
        """End p2pd, hard if it does not end by itself, and remove the sockets."""
        child = self._daemon._child
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._daemon.shutdown(), CLOSE_TIMEOUT)
        if child is not None and child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
        self._sockets.remove()

    async def ended(self) -> str:
        """Wait until p2pd ends by itself; says how."""
        code = await self._daemon._child.wait()
        return f"the libp2p daemon (p2pd) ended with status {code}"

    @property
    def dht_transport(self) -> P2P:
        """What hivemind's DHT talks through."""
        return self._daemon

    # Addresses -----------------------------------------------------------------------------------------------------

    async def addresses(self) -> list[str]:
        """Where others can reach this node, each ending in /p2p/<peer id>."""
        async with self._control(type=p2pd_pb2.Request.IDENTIFY) as (_, _, answer):
            return [f"{Multiaddr(address)}/p2p/{self.peer_id}" for address in answer.identify.addrs]

    async def connected(self) -> set[PeerId]:
        found = set()
        async with self._control(type=p2pd_pb2.Request.LIST_PEERS) as (_, _, answer):
            for info in answer.peers:
                with contextlib.suppress(ValueError):  # peers of other software may have other keys
                    found.add(peer_id_from_bytes(info.id))
        return found

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Open a connection if there is none.

        Raises:
            NetworkError: none of the addresses leads to that peer; `why` has the reason for each.
        """
        try:
            bare = [Multiaddr(address.partition("/p2p/" + peer)[0]).to_bytes() for address in addresses]
            request = p2pd_pb2.ConnectRequest(peer=PeerID.from_base58(peer).to_bytes(), addrs=bare)
            async with (
                asyncio.timeout(DIAL_TIMEOUT),
                self._control(type=p2pd_pb2.Request.CONNECT, connect=request),
            ):
                pass
        except TimeoutError:
            raise NetworkError(f"can't connect to {peer}", f"no answer in {DIAL_TIMEOUT:.0f} s") from None
        except (ControlError, ValueError) as error:  # ValueError: no multiaddr
            raise NetworkError(f"can't connect to {peer}", _dial_failure(str(error))) from None

    async def _dial(self, bootstrap: Sequence[str]) -> None:
        by_peer: dict[PeerId, list[str]] = {}
        for address in bootstrap:
            by_peer.setdefault(PeerId(address.rpartition("/p2p/")[2]), []).append(address)
        if self.peer_id in by_peer:
            raise NetworkError(
                "the swarm's address is this peer's own",
                f"{self.peer_id} is the identity that this process uses",
                "use another --identity, or run the command on another machine",
            )
        attempts = [self.connect(peer, addresses) for peer, addresses in by_peer.items()]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
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
        """Serve streams that other peers open with this protocol name."""

        async def serve(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(peer_id_from_bytes(info.peer_id.to_bytes()), reader, writer)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                log.debug("a %s stream broke: %s", protocol, error)
            finally:
                writer.close()

        await self._daemon.add_binary_stream_handler(protocol, serve)

    @contextlib.asynccontextmanager
    async def open_stream(
        self, peer: PeerId, protocol: str
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a stream to a peer, dialling it if needed.

        Raises:
            ControlError: no connection, or the peer does not speak this protocol.
        """
        request = p2pd_pb2.StreamOpenRequest(peer=PeerID.from_base58(peer).to_bytes(), proto=[protocol])
        async with self._control(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=request) as (reader, writer, _):
            yield reader, writer

    @contextlib.asynccontextmanager
    async def _control(
        self, **request: Any
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, p2pd_pb2.Response]]:
        """A control connection to p2pd on which `request` has been accepted, and the answer to it. Unlike those of
        hivemind's own client it is closed, too, when the caller is cancelled."""
        path = self._daemon._client.control.daemon_connector.control_maddr.value_for_protocol("unix")
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
        """Send a message to everyone on the topic.

        Raises:
            ValueError: the message is too long for gossip (p2pd would drop it in silence).
            ControlError: p2pd refused it.
        """
        if len(data) > MAX_GOSSIP_BYTES:
            raise ValueError(f"{len(data)} bytes are too many for gossip")
        request = p2pd_pb2.PSRequest(type=p2pd_pb2.PSRequest.PUBLISH, topic=topic, data=data)
        async with self._control(type=p2pd_pb2.Request.PUBSUB, pubsub=request):
            self.sent["gossip"] += len(data)

    async def subscribe(self, topic: str) -> AsyncIterator[Gossip]:
        """The topic's messages, for as long as the caller listens or p2pd lives. Own messages come back, too."""
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


class _SocketFolder:
    """A process's own folder for p2pd's sockets, locked while it lives. Folders of dead processes are removed."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self._lock = path, lock

    @classmethod
    def make(cls) -> _SocketFolder:
        parent = Path(tempfile.gettempdir()) / f"p2ptrain-{os.getuid()}"
        try:
            parent.mkdir(mode=0o700, exist_ok=True)
            if parent.stat().st_uid != os.getuid() or parent.stat().st_mode & 0o077:
                raise PermissionError(f"{parent} belongs to someone else or is open to others")
            with FileLock(parent / "lock"):  # nobody sweeps between the making and the locking of a folder
                cls._sweep(parent)
                path = parent / secrets.token_hex(4)
                path.mkdir(mode=0o700)
                lock = FileLock(path / "lock", blocking=False, thread_local=False)
                lock.acquire()
        except OSError as error:
            raise NetworkError(
                "can't make a folder for sockets", str(error), "set TMPDIR to a folder of your own"
            ) from None
        return cls(path, lock)

    @staticmethod
    def _sweep(parent: Path) -> None:
        for path in filter(Path.is_dir, parent.iterdir()):
            with contextlib.suppress(Timeout, OSError), FileLock(path / "lock", blocking=False):
                shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def _address_parts(address: str) -> tuple[str, str, int] | None:
    """(host, 'tcp' or 'udp', port) of an /ip4 or /ip6 multiaddr."""
    parts = address.strip("/").split("/")
    if len(parts) >= 4 and parts[0] in ("ip4", "ip6") and parts[2] in ("tcp", "udp") and parts[3].isdigit():
        return parts[1], parts[2], int(parts[3])
    return None


def _is_loopback(address: str) -> bool:
    parts = _address_parts(address)
    return parts is not None and ipaddress.ip_address(parts[0]).is_loopback


def check_port(address: str) -> None:
    """Raises NetworkError if this machine can't listen there. libp2p listens with SO_REUSEPORT, so a second process on
    a port would silently take half its connections."""
    parts = _address_parts(address)
    if parts is None:
        raise NetworkError(
            f"can't listen at {address!r}", "it is no /ip4 or /ip6 multiaddr", "e.g. --listen /ip4/0.0.0.0/tcp/31337"
        )
    host, transport, port = parts
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as probe:
        if transport == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed connection's port is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NetworkError(
                f"can't listen at {address}",
                f"port {port} is taken by another process" if error.errno == errno.EADDRINUSE else str(error.strerror),
                "choose another port with --listen, or 0 for any free one",
            ) from None


def _dial_failure(message: str) -> str:
    """p2pd's account of a failed dial, one line per address, without its own ceremony."""
    lines = [line.strip(" *") for line in message.splitlines()]
    reasons = [line for line in lines if line.startswith("[")]
    return "; ".join(dict.fromkeys(reasons)) or lines[0]
