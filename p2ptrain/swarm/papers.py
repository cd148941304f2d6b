"""What members of a private run know of each other and tell on: certificates, orders and secrets; and the seal of what
they say to all, whose key follows from those.

A new paper goes to everybody by gossip. Who has missed one notices by the summary in others' heartbeats, or by a seal
that it can't open, and asks for everything: there is not much of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from p2ptrain.errors import MalformedError
from p2ptrain.run import PeerId, short_peer
from p2ptrain.run.access import Access, Paper, read_paper
from p2ptrain.run.record import kind_of
from p2ptrain.swarm.introduction import GIVE, PAPERS, SUMMARY_BYTES, GivenPaper, PapersRequest, PaperTaken, Secret
from p2ptrain.swarm.node import ControlError
from p2ptrain.swarm.presence import monotonic
from p2ptrain.swarm.rpc import Refused, Rpc, RpcError
from p2ptrain.swarm.seal import Seal, UnknownEpochError

DIFFERENT_SECONDS = 3.0
"""How long another peer may know something else before it is asked for it: news are on their way."""
PULL_SECONDS = 30.0
MOST_PAPERS = 16_384

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
        self._differs: dict[PeerId, float] = {}
        """Since when others have said something else."""
        self._pulling = False
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

    def save(self) -> None:
        """Write down what was learned, if anything was; raises StorageError. A few kilobytes, and rarely."""
        if self._unsaved and self._save is not None:
            self._unsaved = False
            self._save(tuple(paper.encoded for paper in self.access.papers()), self.access.secrets)

    # Learning --------------------------------------------------------------------------------------------------------

    def learn(self, paper: Paper, tell: bool, secret: bytes = b"") -> None:
        """Take in what somebody has brought; `tell`: and tell everybody, if it is new.

        Raises:
            MalformedError: it is no paper of this run.
        """
        if not self.access.take(paper):
            return
        if secret:
            self.access.take_secret(secret)
        self._unsaved = True
        self._learned(paper)
        self._spawn(self._pass_on(paper if tell else None))

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
        since = self._differs.setdefault(peer, monotonic())
        if (monotonic() - since >= DIFFERENT_SECONDS or self.access.lacks_secrets) and not self._pulling:
            self._pulling = True
            del self._differs[peer]
            self._spawn(self._pull_quietly(peer))

    async def _pull_quietly(self, peer: PeerId) -> None:
        try:
            await self.pull(peer)
        except RpcError as error:
            log.info("%s could not be asked who is in the run: %s", short_peer(peer), error)
        finally:
            self._pulling = False

    async def pull(self, peer: PeerId) -> None:
        """Learn what a peer knows.

        Raises:
            RpcError: it does not say, or nonsense.
        """
        count = 0
        try:
            async with asyncio.timeout(PULL_SECONDS):
                frames = self._rpc.stream(peer, PAPERS, PapersRequest(run=self.access.run))
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
            self.learn(read_paper(frame), tell=False)
        elif self.access.take_secret(Secret.decode(frame).value):
            self._unsaved = True
            self._use_newest_key()

    # Telling ---------------------------------------------------------------------------------------------------------

    async def answer(self, _peer: PeerId, request: PapersRequest) -> AsyncIterator[bytes]:
        """All papers, then all secrets."""
        if request.run == self.access.run:
            for paper in list(self.access.papers()):
                yield paper.encoded
            for secret in self.access.secrets:
                yield Secret(value=secret).encoded

    async def given(self, _peer: PeerId, request: GivenPaper) -> PaperTaken:
        """Somebody brings a paper; it is on disk when it is taken."""
        if request.run != self.access.run:
            raise Refused("another run's")
        self.learn(read_paper(request.paper), tell=True, secret=request.secret)
        self.save()  # who brings an order may be gone in a moment
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
