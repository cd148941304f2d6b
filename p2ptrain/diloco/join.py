"""How a peer gets to where the others are: a snapshot that most of them hold, then the commits since.

The same few functions serve a newcomer, a peer that missed commits and one that finds itself different. A snapshot is
not trusted because somebody serves it: its digest must be named by the commit that follows it or, where it is the
newest, by most of those who are at it. Which branch is the run's, a newcomer can only learn from those whom it hears.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from p2ptrain.diloco.chain import Chain, Commit
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.replica import StartingPoint
from p2ptrain.diloco.round import RECENT_COMMITS
from p2ptrain.diloco.snapshots import assemble
from p2ptrain.diloco.state import GlobalState, HashedVector, StateManifest
from p2ptrain.errors import LedgerError, MalformedError
from p2ptrain.method import Offer, find_snapshot
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
    """The commit `tip` and those below it, newest first, at most `count`."""

    kind: ClassVar[str] = "commits-request/1"
    max_bytes: ClassVar[int] = 256

    tip: DigestField
    count: Annotated[int, Field(ge=1, le=COMMITS_PER_CALL)]


async def serve_commits(rpc: Rpc, find: Callable[[Digest], bytes | None], throttle: Throttle = UNLIMITED) -> None:
    """Answer requests for commits, no faster than `throttle` says; `find` returns a commit's record, or None."""

    async def answer(_peer: PeerId, request: CommitsRequest) -> AsyncGenerator[bytes, None]:
        record = find(request.tip)
        if record is None:
            raise Refused("not here")
        for _ in range(request.count):
            if record is None:
                return
            await throttle.take(len(record))
            yield record
            record = find(Commit.decode(record).parent)

    await rpc.serve_stream(METHOD, CommitsRequest, answer)


def check_commit(commit: Commit, membership: Membership) -> Commit:
    """Raises MalformedError unless all of it is signed, by members of the run of now or before."""
    if not all(map(membership.knows, commit.signers)):
        raise MalformedError("a commit is signed by somebody who was never a member")
    return commit.check_signatures()


def parts_below(chain: Chain, position: StartingPoint, height: int) -> bool:
    """Whether the branch of a position is known to leave the chain's head's below this height."""
    theirs = {commit.height: commit.digest for commit in (*position.history, *position.above)}
    height = min(height, max(theirs, default=0))
    mine = chain.ancestor(chain.head.commit, height) if height > 0 else None
    return mine is not None and theirs.get(height, mine) != mine


class Joiner:
    """Finds and fetches positions of a run."""

    def __init__(
        self, swarm: Swarm, membership: Membership, fetcher: Fetcher, layout: Layout, folder: RunFolder
    ) -> None:
        self._swarm, self._membership = swarm, membership
        self._fetcher, self._layout, self._folder = fetcher, layout, folder
        self._arrivals = Arrivals(fetcher, folder, np.float32)

    def when_progressing(self, call: Callable[[int, int], None]) -> None:
        """Have this called with (bytes here, bytes in all) while a snapshot arrives."""
        self._arrivals.on_progress = call

    async def find_start(self, base: GlobalState, deepest: int | None = None) -> StartingPoint:
        """The newest snapshot that most peers hold, with the commits around it.

        Args:
            base: a state of this model; what the snapshot shares with it is not fetched.
            deepest: the history is to go down to this height, where that can be had.

        Raises:
            NetworkError: no peer of the run could be found.
            AnotherModel: the run's state is of another model.
            StorageError: what arrives can't be kept.
        """

        async def fetch(offer: Offer, peers: Mapping[PeerId, Presence]) -> StartingPoint:
            found = await self._fetch(offer, peers, base, deepest)
            parts = found.state.fragments
            self._arrivals.let_go_of_others({v.digest for part in parts for v in (part.theta, part.momentum)})
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
            raise LedgerError("a snapshot is not the one that the chain names", short(digest))
        floor = max(0, state.height - len(state.fragments) - RECENT_COMMITS)
        if deepest is not None:
            floor = max(0, min(floor, deepest - 1))
        history = await self.fetch_branch(state.commit, holders, {NO_DIGEST}.__contains__, floor)
        if len(history) < min(state.height, len(state.fragments)):
            raise LedgerError("the commits below a snapshot can't be had", short(digest))
        return StartingPoint(state, tuple(history), tuple(above))

    async def _fetch_state(self, digest: Digest, holders: Sequence[PeerId], base: GlobalState) -> GlobalState:
        record = await self._fetcher.fetch(digest, lambda: holders, SNAPSHOT, StateManifest.max_bytes)
        manifest = StateManifest.decode(bytes(record))
        here = {vector.digest: vector for part in base.fragments for vector in (part.theta, part.momentum)}
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

        Ends early, with what there is, when no source goes on or after `MOST_COMMITS`.
        """
        branch: list[Commit] = []
        for peer in sources:
            with contextlib.suppress(RpcError, MalformedError):
                while not known(tip) and len(branch) < MOST_COMMITS and not (branch and branch[-1].height <= floor + 1):
                    part = await self._call(peer, tip)
                    if not part:
                        raise MalformedError("no commit where one was asked for")
                    for commit in part:
                        if known(commit.digest) or commit.height <= floor:
                            return branch[::-1]
                        branch.append(commit)
                        tip = commit.parent
                break
        return branch[::-1]

    async def _call(self, peer: PeerId, tip: Digest) -> list[Commit]:
        """One call's commits, linked from `tip` downwards; what follows a broken link is not looked at."""
        commits: list[Commit] = []
        frames = self._swarm.rpc.stream(peer, METHOD, CommitsRequest(tip=tip, count=COMMITS_PER_CALL), Commit.max_bytes)
        async with contextlib.aclosing(frames):
            async for frame in frames:
                commit = Commit.decode(frame)
                if commit.digest != tip or commit.run != self._membership.run or len(commits) >= COMMITS_PER_CALL:
                    log.warning("%s sent a commit that was not asked for", short_peer(peer))
                    raise MalformedError("a commit that was not asked for")
                commits.append(check_commit(commit, self._membership))
                tip = commit.parent
        return commits
