"""How a peer gets to the others' head: it fetches a snapshot that most of them hold, then the commits since.

The same functions serve a newcomer, a peer that missed commits and a peer whose state differs from the others'. A
snapshot is not trusted because somebody serves it. The commit above it must name its digest; if there is no such commit
yet, most of the peers at its commit must name it. A newcomer can only ask the peers that it hears which branch is the
run's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from p2ptrain.diloco.border import Border
from p2ptrain.diloco.chain import Chain, Commit
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.replica import StartingPoint
from p2ptrain.diloco.round import RECENT_COMMITS
from p2ptrain.diloco.snapshots import assemble
from p2ptrain.diloco.state import GlobalState, HashedVector, StateManifest
from p2ptrain.errors import LedgerError, MalformedError
from p2ptrain.method import Offer, Tell, find_snapshot
from p2ptrain.run import NO_DIGEST, Digest, PeerId, Record, short, short_peer
from p2ptrain.run.record import DigestField
from p2ptrain.state import Fetcher, RunFolder
from p2ptrain.state.arrivals import SNAPSHOT, Arrivals
from p2ptrain.state.throttle import UNLIMITED, Throttle
from p2ptrain.swarm import Membership, Presence, Refused, Rpc, RpcError, Swarm

METHOD = "commits"
COMMITS_PER_CALL = 64
MOST_COMMITS = 4096
"""A peer that is further behind starts from a snapshot instead."""

log = logging.getLogger(__name__)


class CommitsRequest(Record):
    """Asks for the commit `tip` and the commits below it, newest first, at most `count` in all."""

    kind: ClassVar[str] = "commits-request/1"
    max_bytes: ClassVar[int] = 256

    tip: DigestField
    count: Annotated[int, Field(ge=1, le=COMMITS_PER_CALL)]


async def serve_commits(rpc: Rpc, find: Callable[[Digest], bytes | None], throttle: Throttle = UNLIMITED) -> None:
    """Answer requests for commits, no faster than `throttle` allows. `find` returns a commit's record, or None."""

    async def answer(_peer: PeerId, request: CommitsRequest) -> AsyncGenerator[bytes, None]:
        record = find(request.tip)
        if record is None:
            raise Refused("the commit is not here")
        for _ in range(request.count):
            if record is None:
                return
            await throttle.take(len(record))
            yield record
            record = find(Commit.decode(record).parent)

    await rpc.serve_stream(METHOD, CommitsRequest, answer)


def parts_below(chain: Chain, position: StartingPoint, height: int) -> bool:
    """Whether it is certain that the position's branch and the branch of the chain's head part below this height."""
    theirs = {commit.height: commit.digest for commit in (*position.history, *position.above)}
    height = min(height, max(theirs, default=0))
    mine = chain.ancestor(chain.head.commit, height) if height > 0 else None
    return mine is not None and theirs.get(height, mine) != mine


class Joiner:
    """Finds and fetches positions of a run."""

    def __init__(
        self,
        swarm: Swarm,
        membership: Membership,
        fetcher: Fetcher,
        layout: Layout,
        folder: RunFolder,
        border: Border,
        tell: Tell,
    ) -> None:
        self._swarm, self._membership, self._border = swarm, membership, border
        self._fetcher, self._layout, self._folder = fetcher, layout, folder
        self._arrivals = Arrivals(fetcher, folder, np.float32)
        self._arrivals.on_progress = lambda here, in_all: tell("progress", {"here": here, "in_all": in_all})

    async def find_start(self, base: GlobalState, deepest: int | None = None) -> StartingPoint:
        """The newest snapshot that most peers hold, with the commits around it.

        Args:
            base: a state of the model that was built here; vectors that the snapshot shares with it are not fetched.
            deepest: the history goes down to this height, if the peers have it.

        Raises:
            NetworkError: no peer handed out a snapshot that can be used.
            AnotherModel: the run's state belongs to another model than the one that was built here.
            StorageError: the disk can't take what arrives.
        """

        async def fetch(offer: Offer, peers: Mapping[PeerId, Presence]) -> StartingPoint:
            found = await self._fetch(offer, peers, base, deepest)
            self._arrivals.let_go_of_others({vector.digest for vector in found.state.vectors})
            return found

        return await find_snapshot(self._membership, fetch)

    async def _fetch(
        self, offer: Offer, peers: Mapping[PeerId, Presence], base: GlobalState, deepest: int | None
    ) -> StartingPoint:
        digest, holders = offer.state, offer.holders
        state = await self._fetch_state(digest, holders, base)
        tips = dict.fromkeys(peers[peer].commit for peer in holders)
        above: list[Commit] = []
        for tip in tips:
            above = await self.fetch_branch(tip, holders, {state.commit}.__contains__, state.height)
            if above and above[0].parent == state.commit:
                break
            above = []
        at_it = [seen.state == state.digest for seen in peers.values() if seen.commit == state.commit]
        named = above[0].state == state.digest if above else 2 * sum(at_it) > len(at_it)
        if not named or (state.height == 0 and digest != self._folder.genesis.base):
            raise LedgerError("a snapshot is not the one that the chain names", f"its state is {short(digest)}")
        floor = max(0, state.height - len(state.fragments) - RECENT_COMMITS)
        if deepest is not None:
            floor = max(0, min(floor, deepest - 1))
        history = await self.fetch_branch(state.commit, holders, {NO_DIGEST}.__contains__, floor)
        if len(history) < min(state.height, len(state.fragments)):
            raise LedgerError("no peer hands out the commits below a snapshot", f"its state is {short(digest)}")
        return StartingPoint(state, tuple(history), tuple(above))

    async def _fetch_state(self, digest: Digest, holders: Sequence[PeerId], base: GlobalState) -> GlobalState:
        record = await self._fetcher.fetch(digest, lambda: holders, SNAPSHOT, StateManifest.max_bytes)
        manifest = StateManifest.decode(bytes(record))
        here = {vector.digest: vector for vector in base.vectors}
        if len(manifest.vectors) != len(self._layout.sizes):
            return assemble(manifest, self._layout, here.__getitem__)  # raises: another model
        wanted = {
            vector: 4 * size
            for pair, size in zip(manifest.vectors, self._layout.sizes, strict=True)
            for vector in pair
            if vector not in here
        }
        arrived = await self._arrivals.fetch(wanted, holders)
        here.update({digest: HashedVector(values) for digest, values in arrived.items()})
        return assemble(manifest, self._layout, here.__getitem__)

    async def fetch_branch(
        self, tip: Digest, sources: Iterable[PeerId], known: Callable[[Digest], bool], floor: int
    ) -> list[Commit]:
        """The commits from `tip` down to a known one or to height `floor`, oldest first; each is checked.

        The list ends early if no source continues it, or after `MOST_COMMITS`.
        """
        branch: list[Commit] = []
        for peer in sources:
            with contextlib.suppress(RpcError, MalformedError):
                while not known(tip) and len(branch) < MOST_COMMITS and not (branch and branch[-1].height <= floor + 1):
                    part = await self._call(peer, tip)
                    if not part:
                        raise MalformedError("a peer sent no commit in answer to a request for one")
                    for commit in part:
                        if known(commit.digest) or commit.height <= floor:
                            return branch[::-1]
                        branch.append(commit)
                        tip = commit.parent
                break
        return branch[::-1]

    async def _call(self, peer: PeerId, tip: Digest) -> list[Commit]:
        """The commits of one call, from `tip` downwards. Raises MalformedError at one that is not the next."""
        commits: list[Commit] = []
        frames = self._swarm.rpc.stream(peer, METHOD, CommitsRequest(tip=tip, count=COMMITS_PER_CALL), Commit.max_bytes)
        async with contextlib.aclosing(frames):
            async for frame in frames:
                commit = Commit.decode(frame)
                if commit.digest != tip or len(commits) >= COMMITS_PER_CALL:
                    log.warning("%s sent a commit that was not asked for", short_peer(peer))
                    raise MalformedError("a peer sent a commit that was not asked for")
                commits.append(self._border.check_commit(commit, self._membership.knows))
                tip = commit.parent
        return commits
