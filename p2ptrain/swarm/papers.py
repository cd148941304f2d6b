"""The papers that members of a private run collect and pass on: certificates, orders and secrets. The key that seals
the gossip follows from them.

A new paper goes to everybody by gossip. A peer that has missed one notices it: the summary in other peers' heartbeats
differs from its own, or it can't open a seal. Then it asks another peer for all papers; there are not many.
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
from p2ptrain.swarm.introduction import GIVE, MAX_ORDER, PAPERS, GivenPaper, PapersRequest, PaperTaken, Secret
from p2ptrain.swarm.node import ControlError
from p2ptrain.swarm.presence import SUMMARY_BYTES, monotonic
from p2ptrain.swarm.rpc import RateLimit, Refused, Rpc, RpcError
from p2ptrain.swarm.seal import Seal, UnknownEpochError

DIFFERENT_SECONDS, PATIENCE = 3.0, 60.0
"""Seconds before this peer asks another one whose summary differs, since new papers may be on their way by gossip. The
delay doubles after each time that did not help, up to a minute: when there are too many papers, the two peers may have
kept different ones."""
PULL_SECONDS = 30.0
PULLS_AT_ONCE = 3
MOST_PAPERS = MOST_CERTIFICATES + 2 * MOST_ORDERS + 1
GIVEN_RATE, GIVEN_BURST = 2.0, 256.0
"""Papers that one member may bring: per second in the long run, and at once."""

log = logging.getLogger(__name__)
Save = Callable[[tuple[bytes, ...], tuple[bytes, ...]], None]


class Papers:
    """The papers that this peer, `me`, knows; those known so far are in `access`. `learned` is called with each new
    one. Use it on the network thread only."""

    def __init__(self, me: PeerId, access: Access, learned: Callable[[Paper], None]) -> None:
        self.access, self._learned = access, learned
        self.sealing = Seal(access.run, me)
        """It has no key while this peer does not know the run's first secret."""
        self._save: Save | None = None
        self._unsaved = False
        self.rpc: Rpc
        """Asks other peers; the door sets it once the node runs."""
        self.publish: Callable[[bytes], Awaitable[None]] | None = None
        """Sends to all peers of the run."""
        self._differs: dict[PeerId, tuple[float, float]] = {}
        """Peers whose summary differs: when to ask them, and the delay in seconds after that."""
        self._pulling: set[PeerId] = set()
        self._given = RateLimit(GIVEN_RATE, GIVEN_BURST)
        self._tasks: set[asyncio.Task[None]] = set()
        self._use_newest_key()

    def remember_with(self, boot: int, save: Save) -> None:
        """Keep on disk what is learned from now on: `save` writes the encoded papers and the secrets. Call this before
        anything is sent to all peers of the run. `boot` is a number that is larger at each start of this peer."""
        self.sealing.boot, self._save, self._unsaved = boot, save, True
        self._use_newest_key()

    def save(self) -> None:
        """Write to disk if something was learned: a few kilobytes, and rarely. Raises StorageError."""
        if self._unsaved and self._save is not None:
            self._save(tuple(paper.encoded for paper in self.access.papers()), self.access.secrets)
            self._unsaved = False

    # Learning --------------------------------------------------------------------------------------------------------

    def learn(self, paper: Paper, tell: bool, secret: bytes = b"") -> None:
        """Take in a paper that another peer has brought.

        Args:
            tell: send the paper to everybody if it is new.
            secret: the secret of the order, if the peer has brought it, too.

        Raises:
            MalformedError: the paper does not belong to this run, the secret does not belong to the order, or there
                are too many papers.
        """
        if secret and (not isinstance(paper, Order) or commitment(secret) != paper.secret):
            raise MalformedError("a secret belongs to another order")
        is_new = self.access.take(paper)
        brings_secret = bool(secret) and self.access.take_secret(secret)
        if not (is_new or brings_secret):  # the order may have come before its secret, by gossip
            return
        self._unsaved = True
        if is_new:
            self._differs.clear()  # ask for its secret at once
            self._learned(paper)
        self._spawn(self._pass_on(paper if tell and is_new else None))

    async def _pass_on(self, paper: Paper | None) -> None:
        if paper is not None and self.publish is not None:
            with contextlib.suppress(OSError, ControlError, asyncio.IncompleteReadError):
                await self.publish(paper.encoded)  # with the former key: others do not have a newer one yet
        self._use_newest_key()

    def _use_newest_key(self) -> None:
        epoch = self.access.epoch()
        if epoch is not None:
            self.sealing.use(epoch, monotonic())

    @property
    def summary(self) -> bytes:
        """A few bytes. Two peers' summaries differ when one of them knows a paper that the other does not."""
        return self.access.digest[:SUMMARY_BYTES]

    def compare(self, peer: PeerId, summary: bytes) -> None:
        """Ask a peer for its papers if its summary has differed for a while, or at once if this peer lacks a secret."""
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
            log.info("can't ask %s for the papers of the run: %s", short_peer(peer), error)
        finally:
            self._pulling.discard(peer)

    async def pull(self, peer: PeerId) -> None:
        """Ask a peer for all its papers and learn them. Raises RpcError if the peer does not answer, or its answer is
        malformed."""
        count = 0
        try:
            async with asyncio.timeout(PULL_SECONDS):
                frames = self.rpc.stream(peer, PAPERS, PapersRequest(run=self.access.run), MAX_ORDER)
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
            with contextlib.suppress(TooManyError):  # this one does not fit, but the next may be needed
                self.learn(read_paper(frame), tell=False)
        elif self.access.take_secret(Secret.decode(frame).value):
            self._unsaved = True
            self._use_newest_key()

    # Telling ---------------------------------------------------------------------------------------------------------

    async def answer(self, request: PapersRequest) -> AsyncGenerator[bytes, None]:
        """Yields all orders, then all secrets, then all certificates, as they were when the answer began. An order that
        comes meanwhile may revoke the asking peer, which must not get the secret of that order."""
        if request.run == self.access.run:
            secrets = [Secret(value=secret) for secret in self.access.secrets]
            for record in (*self.access.orders, *secrets, *self.access.certificates):
                yield record.encoded

    async def given(self, peer: PeerId, request: GivenPaper) -> PaperTaken:
        """Take a paper that a member brings, and answer when it is on disk. Raises MalformedError if the paper is not
        valid, and Refused if it is for another run, the member brings too many, or the disk is full."""
        if request.run != self.access.run:
            raise Refused("the paper belongs to another run")
        if not self._given.allows(peer):
            raise Refused("too many papers, wait a second")
        self.learn(read_paper(request.paper), tell=True, secret=request.secret)
        try:
            self.save()  # the member that brings an order may be gone in a moment
        except StorageError as error:
            raise Refused(f"the paper can't be saved here: {error.what}") from None
        return PaperTaken()

    async def give(self, peer: PeerId, paper: Paper, secret: bytes = b"") -> None:
        """Bring a paper to a member, which passes it on. Raises RpcError if the member does not take it."""
        given = GivenPaper(run=self.access.run, paper=paper.encoded, secret=secret)
        await self.rpc.call(peer, GIVE, given, PaperTaken)

    # Gossip ----------------------------------------------------------------------------------------------------------

    def unseal(self, topic: str, origin: PeerId, data: bytes) -> bytes:
        """The message that `origin` has sealed; raises MalformedError. If the key is unknown, `origin` is asked for
        it."""
        try:
            return self.sealing.open(topic, origin, data, monotonic())
        except UnknownEpochError:
            self.compare(origin, b"")
            raise

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
