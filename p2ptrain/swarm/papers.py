"""What members of a private run know of each other and tell on: certificates, orders and secrets; and the seal of what
they say to all, whose key follows from those.

A new paper goes to everybody by gossip. Who has missed one notices by the summary in others' heartbeats, or by a seal
that it can't open, and asks for everything: there is not much of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.run import PeerId, short_peer
from p2ptrain.run.access import MOST_CERTIFICATES, MOST_ORDERS, Access, Paper, TooManyError, commitment, read_paper
from p2ptrain.run.certificate import Order
from p2ptrain.run.record import kind_of
from p2ptrain.swarm.introduction import (
    GIVE,
    MAX_ORDER,
    PAPERS,
    SUMMARY_BYTES,
    GivenPaper,
    PapersRequest,
    PaperTaken,
    Secret,
)
from p2ptrain.swarm.node import ControlError
from p2ptrain.swarm.presence import monotonic
from p2ptrain.swarm.rpc import RateLimit, Refused, Rpc, RpcError
from p2ptrain.swarm.seal import Seal, UnknownEpochError

DIFFERENT_SECONDS, PATIENCE = 3.0, 60.0
"""How long another peer may know something else before it is asked for it: news are on their way. Twice as long after
each time that it still does then, up to a minute: the two may have taken others of too many."""
PULL_SECONDS = 30.0
PULLS_AT_ONCE = 3
MOST_PAPERS = MOST_CERTIFICATES + 2 * MOST_ORDERS + 1
GIVEN_RATE, GIVEN_BURST = 2.0, 256.0
"""Papers a second that one member may bring, and at once."""

log = logging.getLogger(__name__)
Save = Callable[[tuple[bytes, ...], tuple[bytes, ...]], None]


class Papers:
    """Of one peer; used on the network thread alone.

    Args:
        learned: called with each paper that is new here.
    """

    def __init__(self, me: PeerId, access: Access, learned: Callable[[Paper], None]) -> None:
        self.access, self._learned = access, learned
        self._seal = Seal(access.run, me)
        self._rpc: Rpc
        self._save: Save | None = None
        self._unsaved = False
        self._publish: Callable[[bytes], Awaitable[None]] | None = None
        self._differs: dict[PeerId, tuple[float, float]] = {}
        """Others who say something else: when they are asked, and how long after that again."""
        self._pulling: set[PeerId] = set()
        self._given = RateLimit(GIVEN_RATE, GIVEN_BURST)
        self._tasks: set[asyncio.Task[None]] = set()
        self._use_newest_key()

    def ask_with(self, rpc: Rpc) -> None:
        self._rpc = rpc

    def publish_with(self, publish: Callable[[bytes], Awaitable[None]]) -> None:
        self._publish = publish

    def remember_with(self, boot: int, save: Save) -> None:
        """From now on what is learned is kept. Comes before anything is said to all peers of the run.

        Args:
            boot: larger at each start of this peer.
            save: gets papers and secrets, encoded.
        """
        self._seal.boot, self._save, self._unsaved = boot, save, True
        self._use_newest_key()

    def save(self) -> None:
        """Write down what was learned, if anything was; raises StorageError. A few kilobytes, and rarely."""
        if self._unsaved and self._save is not None:
            self._save(tuple(paper.encoded for paper in self.access.papers()), self.access.secrets)
            self._unsaved = False

    # Learning --------------------------------------------------------------------------------------------------------

    def learn(self, paper: Paper, tell: bool, secret: bytes = b"") -> None:
        """Take in what somebody has brought; `tell`: and tell everybody, if it is new.

        Raises:
            MalformedError: it is no paper of this run, the secret not the order's, or there are too many of them.
        """
        if secret and (not isinstance(paper, Order) or commitment(secret) != paper.secret):
            raise MalformedError("a secret belongs to another order")
        is_new = self.access.take(paper)
        brings_secret = bool(secret) and self.access.take_secret(secret)
        if not (is_new or brings_secret):  # the order alone may have come before, by gossip
            return
        self._unsaved = True
        if is_new:
            self._differs.clear()  # its secret is needed at once
            self._learned(paper)
        self._spawn(self._pass_on(paper if tell and is_new else None))

    async def _pass_on(self, paper: Paper | None) -> None:
        if paper is not None and self._publish is not None:
            with contextlib.suppress(OSError, ControlError, asyncio.IncompleteReadError):
                await self._publish(paper.encoded)  # in the key of before: others have no newer one yet
        self._use_newest_key()

    def _use_newest_key(self) -> None:
        epoch = self.access.epoch()
        if epoch is not None:
            self._seal.use(epoch, monotonic())

    @property
    def summary(self) -> bytes:
        """Differs from another peer's if one of the two has something to learn."""
        return self.access.digest[:SUMMARY_BYTES]

    def compare(self, peer: PeerId, summary: bytes) -> None:
        """Ask a peer that has long said something else, or at once where a secret is lacking here."""
        if summary == self.summary and not self.access.lacks_secrets:
            self._differs.pop(peer, None)
            return
        now = monotonic()
        first = now + (0 if self.access.lacks_secrets else DIFFERENT_SECONDS)
        due, wait = self._differs.setdefault(peer, (first, DIFFERENT_SECONDS))
        if now >= due and peer not in self._pulling and len(self._pulling) < PULLS_AT_ONCE:
            self._pulling.add(peer)
            self._differs[peer] = now + wait, min(2 * wait, PATIENCE)
            self._spawn(self._pull_quietly(peer))

    async def _pull_quietly(self, peer: PeerId) -> None:
        try:
            await self.pull(peer)
        except RpcError as error:
            log.info("%s could not be asked who is in the run: %s", short_peer(peer), error)
        finally:
            self._pulling.discard(peer)

    async def pull(self, peer: PeerId) -> None:
        """Learn what a peer knows.

        Raises:
            RpcError: it does not say, or nonsense.
        """
        count = 0
        try:
            async with asyncio.timeout(PULL_SECONDS):
                frames = self._rpc.stream(peer, PAPERS, PapersRequest(run=self.access.run), MAX_ORDER)
                async with contextlib.aclosing(frames):
                    async for frame in frames:
                        count += 1
                        if count > MOST_PAPERS:
                            raise MalformedError("more papers than there can be")
                        self._learn_from(frame)
        except MalformedError as error:
            raise RpcError(peer, PAPERS, "malformed", error.brief) from None
        except TimeoutError:
            raise RpcError(peer, PAPERS, "timeout", f"{PULL_SECONDS:.0f} s") from None

    def _learn_from(self, frame: bytes) -> None:
        if kind_of(frame) != Secret.kind:
            with contextlib.suppress(TooManyError):  # what follows may be needed
                self.learn(read_paper(frame), tell=False)
        elif self.access.take_secret(Secret.decode(frame).value):
            self._unsaved = True
            self._use_newest_key()

    # Telling ---------------------------------------------------------------------------------------------------------

    async def answer(self, request: PapersRequest) -> AsyncGenerator[bytes, None]:
        """Orders, then secrets, then certificates, as they are now: whom an order shuts out that comes meanwhile must
        not get its secret."""
        if request.run == self.access.run:
            orders, secrets, certificates = self.access.orders, self.access.secrets, self.access.certificates
            for order in orders:
                yield order.encoded
            for secret in secrets:
                yield Secret(value=secret).encoded
            for certificate in certificates:
                yield certificate.encoded

    async def given(self, peer: PeerId, request: GivenPaper) -> PaperTaken:
        """Somebody brings a paper; it is on disk when it is taken."""
        if request.run != self.access.run:
            raise Refused("another run's")
        if not self._given.allows(peer):
            raise Refused("too many papers, wait a second")
        self.learn(read_paper(request.paper), tell=True, secret=request.secret)
        try:
            self.save()  # who brings an order may be gone in a moment
        except StorageError as error:
            raise Refused(f"it can't be kept here: {error.what}") from None
        return PaperTaken()

    async def give(self, peer: PeerId, paper: Paper, secret: bytes = b"") -> None:
        """Have a member take a paper and pass it on.

        Raises:
            RpcError: it does not.
        """
        given = GivenPaper(run=self.access.run, paper=paper.encoded, secret=secret)
        await self._rpc.call(peer, GIVE, given, PaperTaken)

    # Gossip ----------------------------------------------------------------------------------------------------------

    def seal(self, topic: str, message: bytes) -> bytes | None:
        """None while the founding secret is not known here."""
        return self._seal.seal(topic, message) if self._seal.is_ready else None

    def unseal(self, topic: str, origin: PeerId, data: bytes) -> bytes:
        """Raises MalformedError."""
        try:
            return self._seal.open(topic, origin, data, monotonic())
        except UnknownEpochError:
            self.compare(origin, b"")
            raise

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
