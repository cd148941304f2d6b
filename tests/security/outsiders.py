"""Somebody who is no member, with whatever papers and keys they have got hold of, and everything they can try.

The node is an ordinary one of libp2p with nothing of ours between it and the wire but the framing: no door of its own.
Every attempt says whether it got through.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID

from p2ptrain.diloco.join import CommitsRequest
from p2ptrain.errors import MalformedError
from p2ptrain.run import NO_DIGEST, PROTOCOL, Digest, PeerId, Record, SigningKey
from p2ptrain.run.access import STRANGER, Access, Epoch
from p2ptrain.run.certificate import Certificate
from p2ptrain.run.record import kind_of
from p2ptrain.spsa import reconcile
from p2ptrain.state.fetch import BlobRequest
from p2ptrain.swarm import Identity, NodeConfig, RpcError, Swarm
from p2ptrain.swarm.introduction import GivenPaper, Introduction, PapersRequest, Welcome
from p2ptrain.swarm.presence import Heartbeat
from p2ptrain.swarm.probe import DialBack, SendMe, TakeThis
from p2ptrain.swarm.relay import TUNNEL
from p2ptrain.swarm.seal import Seal
from p2ptrain.swarm.swarm import Hello
from tests.unit.swarm.people import presence_of

PATIENCE = 6.0
REFUSALS = (STRANGER, "revoked by the owner ", "its invite ")
"""How the door's own answers begin."""


@dataclass(frozen=True)
class Victim:
    """A member, as outsiders know it; `swarm` if it is in this process."""

    peer: PeerId
    addresses: tuple[str, ...]
    swarm: Swarm | None = None

    @classmethod
    def of(cls, swarm: Swarm) -> Victim:
        return cls(swarm.peer_id, tuple(swarm.addresses()), swarm)


class Outsider:
    """A node of their own. `epoch`: a key of the gossip that they know, if they do."""

    def __init__(self, key_file: Path, run: Digest, epoch: Epoch | None = None) -> None:
        self.run = run
        self.swarm = Swarm.start(Identity.open(key_file), NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",)))
        self.topic = f"p2ptrain/{PROTOCOL}/{run.hex()}"
        self.seal: Seal | None = None
        if epoch is not None:
            self.seal = Seal(run, self.peer)
            self.seal.boot = 2**40
            self.seal.use(epoch, 0.0)

    @property
    def peer(self) -> PeerId:
        return self.swarm.peer_id

    @property
    def key(self) -> SigningKey:
        return self.swarm.key

    def introduce(self, victim: Victim, certificate: Certificate | None, passing: bool = False) -> str:
        """Show a certificate, or claim to need none; the refusal."""
        shown = certificate.encoded if certificate else b""
        request = Introduction(run=self.run, certificate=shown, passing=passing, new=True)

        async def ask() -> str:
            await self.swarm.node.connect(victim.peer, victim.addresses)
            answer = await self.swarm.rpc.call(victim.peer, "introduce", request, Welcome)
            assert bool(answer.refusal) != bool(answer.genesis), "what is refused is told nothing"
            return answer.refusal

        return self.swarm.run(ask())

    def close(self) -> None:
        self.swarm.close()


# Calls ---------------------------------------------------------------------------------------------------------------


def requests(run: Digest) -> dict[str, Record]:
    """One for each method that peers serve."""
    return {
        "hello": Hello(),
        "dial-back": DialBack(ports=()),
        "probe-down": SendMe(size=1),
        "probe-up": TakeThis(data=b"x"),
        "blob": BlobRequest(blob=run, first=0, count=1, manifest=True),
        "commits": CommitsRequest(tip=NO_DIGEST, count=1),
        "spsa-summary/1": reconcile.SummaryRequest(run=run),
        "spsa-batches/1": reconcile.BatchesRequest(run=run, author=presence_of().author, session=bytes(8), start=0),
        "spsa-cuts/1": reconcile.CutsRequest(run=run),
        "spsa-give-cut/1": reconcile.GivenCut(run=run, record=b""),
        "papers": PapersRequest(run=run),
        "give-paper": GivenPaper(run=run, paper=b"", secret=b""),
    }


def protocol_of(method: str) -> str:
    return f"/p2ptrain/{method}" if method in ("hello", "introduce") else f"/p2ptrain/{PROTOCOL}/{method}"


def call(method: str) -> Callable[[Outsider, Victim], Awaitable[bool]]:
    """Whether a call is answered by its handler: with anything but the door's own refusal."""

    async def attempt(outsider: Outsider, victim: Victim) -> bool:
        request = requests(outsider.run)[method]
        try:
            frames = outsider.swarm.rpc.stream(victim.peer, method, request)
            async with contextlib.aclosing(frames):
                async for _ in frames:
                    return True
            return True
        except RpcError as error:
            if error.reason == "unknown method":  # another one's of the two methods
                return False
            if error.reason not in ("refused", "malformed"):
                raise  # it says nothing about the door
            return not error.detail.startswith(REFUSALS)

    return attempt


# The directory -------------------------------------------------------------------------------------------------------


async def ping_the_directory(outsider: Outsider, victim: Victim) -> bool:
    return await _dht(outsider).call_ping(PeerID.from_base58(victim.peer)) is not None


async def read_the_directory(outsider: Outsider, victim: Victim) -> bool:
    key = DHTID.generate(source=f"p2ptrain/{outsider.run.hex()}/peers")
    return await _dht(outsider).call_find(PeerID.from_base58(victim.peer), [key]) is not None


async def write_to_the_directory(outsider: Outsider, victim: Victim) -> bool:
    presence = presence_of(outsider.key, run=outsider.run)
    key = DHTID.generate(source=f"p2ptrain/{outsider.run.hex()}/peers")
    stored = await _dht(outsider).call_store(
        PeerID.from_base58(victim.peer), [key], [presence.encoded], 2e9, [outsider.peer]
    )
    return stored is not None


async def be_asked_by_the_directory(outsider: Outsider, victim: Victim) -> bool:
    """Get an answer of one's own into a peer's part of the directory."""

    swarm = victim.swarm
    assert swarm is not None

    async def ask() -> bool:
        return await swarm.directory._dht.protocol.call_ping(PeerID.from_base58(outsider.peer)) is not None

    return await asyncio.wrap_future(swarm.submit(ask()))


def _dht(outsider: Outsider):  # type: ignore[no-untyped-def]  # hivemind is not typed
    return outsider.swarm.directory._dht.protocol


# Streams -------------------------------------------------------------------------------------------------------------


async def be_asked(outsider: Outsider, victim: Victim) -> bool:
    """Have a peer believe what one answers."""

    swarm = victim.swarm
    assert swarm is not None

    async def ask() -> bool:
        with contextlib.suppress(RpcError):
            async for _ in swarm.rpc.stream(outsider.peer, "hello", Hello()):
                return True
        return False

    return await asyncio.wrap_future(swarm.submit(ask()))


async def dig_a_tunnel(outsider: Outsider, victim: Victim) -> bool:
    """Reach the victim's own p2pd from within its machine."""
    async with outsider.swarm.node.open_stream(victim.peer, TUNNEL) as (reader, writer):
        writer.write(b"\x13/multistream/1.0.0\n")
        with contextlib.suppress(OSError):
            await writer.drain()
            return bool(await reader.read(1))
    return False


# Gossip --------------------------------------------------------------------------------------------------------------


async def overhear(outsider: Outsider, victim: Victim) -> bool:
    """Read what is said to all peers of the run."""
    async for message in outsider.swarm.node.subscribe(outsider.topic):
        if message.origin == victim.peer:
            return is_readable(outsider, message.origin, message.data)
    return False


def is_readable(outsider: Outsider, origin: PeerId, data: bytes) -> bool:
    with contextlib.suppress(MalformedError):
        if outsider.seal is not None:
            data = outsider.seal.open(outsider.topic, origin, data, 0.0)
        kind_of(data)
        return True
    return False


def words_of(outsider: Outsider) -> list[bytes]:
    """A heartbeat, as it is and as well sealed as they can."""
    heartbeat = Heartbeat(presence=presence_of(outsider.key, run=outsider.run), news=b"").encoded
    sealed = [outsider.seal.seal(outsider.topic, heartbeat)] if outsider.seal else []
    return [heartbeat, *sealed]


ATTEMPTS: dict[str, Callable[[Outsider, Victim], Awaitable[bool]]] = {
    **{method: call(method) for method in requests(NO_DIGEST)},
    "ping the directory": ping_the_directory,
    "read the directory": read_the_directory,
    "write to the directory": write_to_the_directory,
    "dig a tunnel": dig_a_tunnel,
    "overhear": overhear,
}
"""Against any member."""
FROM_WITHIN = {"be asked by the directory": be_asked_by_the_directory, "be asked": be_asked}
"""Where the member has to do something first: in this process alone."""


def try_to(attempt: str, outsider: Outsider, victim: Victim) -> bool:
    """Whether it got through; they connect anew whenever the victim has hung up."""

    async def attempt_it() -> bool:
        while True:
            await outsider.swarm.node.connect(victim.peer, victim.addresses)
            try:
                return await (ATTEMPTS | FROM_WITHIN)[attempt](outsider, victim)
            except RpcError as error:
                if error.reason not in ("broken off", "unreachable"):
                    raise

    try:
        return outsider.swarm.run(asyncio.wait_for(attempt_it(), PATIENCE))
    except TimeoutError:
        assert attempt == "overhear", attempt
        return False


def known_epoch(access: Access) -> Epoch:
    epoch = access.epoch()
    assert epoch is not None
    return epoch
