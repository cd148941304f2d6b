"""The commits of a branch, as they are fetched from peers of any kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2ptrain.diloco.border import Border
from p2ptrain.diloco.chain import Chain, Commit
from p2ptrain.diloco.join import COMMITS_PER_CALL, CommitsRequest, Joiner, parts_below
from p2ptrain.diloco.replica import StartingPoint
from p2ptrain.run import NO_DIGEST, Digest, PeerId
from p2ptrain.run.head import Head
from p2ptrain.swarm import RpcError
from tests.unit.diloco.samples import KEY_OF, PEERS, commit_on, offer
from tests.unit.diloco.swarm_in_memory import KEYS, RUN, initial_state, spec_with

LENGTH = COMMITS_PER_CALL + 10
BORDER = Border.around(initial_state(spec_with(1)), RUN, spec_with(1))
[BYTES] = BORDER.payload_bytes or ()
Answer = Callable[[CommitsRequest], Sequence[Commit]]


def grown(head: Head, count: int, attempt: int = 0) -> list[tuple[Commit, Head]]:
    """Signed commits, one above the other, and where they lead."""
    made: list[tuple[Commit, Head]] = []
    for _ in range(count):
        commit = commit_on(head, attempt=attempt, leader=KEYS[0].peer_id).signed(KEYS[0])
        head = Head(head.height + 1, commit.digest, head.state, head.weight + 1)
        made.append((commit, head))
    return made


BRANCH = [commit for commit, _ in grown(initial_state(spec_with(1)).head, LENGTH)]
BY_DIGEST = {commit.digest: commit for commit in BRANCH}


def honest(request: CommitsRequest) -> list[Commit]:
    commit, given = BY_DIGEST.get(Digest(request.tip)), list[Commit]()
    while commit is not None and len(given) < request.count:
        given.append(commit)
        commit = BY_DIGEST.get(Digest(commit.parent))
    return given


def empty(_request: CommitsRequest) -> list[Commit]:
    return []


def another(request: CommitsRequest) -> list[Commit]:
    return [commit for commit in BRANCH if commit.digest != request.tip][:1]


def unsigned(request: CommitsRequest) -> list[Commit]:
    signed = BY_DIGEST[Digest(request.tip)]
    return [Commit(**{**{name: getattr(signed, name) for name in Commit.model_fields}, "signature": b""})]


def endless(request: CommitsRequest) -> list[Commit]:
    return honest(request.model_copy(update={"count": COMMITS_PER_CALL + 1}))


def fetched(
    *answers: Answer | None,
    known: Callable[[Digest], bool] = {NO_DIGEST}.__contains__,
    floor: int = 0,
    tip: Digest = BRANCH[-1].digest,
) -> tuple[list[Commit], int]:
    """The branch as it was fetched from peers that answer so, and the number of calls; None: unreachable."""
    by_peer, calls = dict(zip(PEERS, answers, strict=False)), 0

    async def stream(peer: PeerId, method: str, request: CommitsRequest, _max_frame: int) -> AsyncIterator[bytes]:
        nonlocal calls
        calls += 1
        answer = by_peer[peer]
        if answer is None:
            raise RpcError(peer, method, "unreachable")
        for commit in answer(request):
            await asyncio.sleep(0)
            yield commit.encoded

    swarm: Any = SimpleNamespace(rpc=SimpleNamespace(stream=stream))
    membership: Any = SimpleNamespace(knows=lambda peer: True)
    joiner = Joiner(swarm, membership, *cast(Any, (None, None, None)), BORDER, cast(Any, None))
    work = joiner.fetch_branch(tip, list(by_peer), known, floor)
    return asyncio.run(asyncio.wait_for(work, 10)), calls


def test_a_branch_comes_in_several_calls_oldest_first() -> None:
    assert fetched(honest) == (BRANCH, 2)


def test_it_ends_at_what_is_known_and_at_the_floor() -> None:
    known = {commit.digest for commit in BRANCH[:20]}
    assert fetched(honest, known=known.__contains__)[0] == BRANCH[20:]
    assert fetched(honest, floor=50)[0] == BRANCH[50:]


@pytest.mark.parametrize("fault", [None, empty, another, unsigned, endless])
def test_a_bad_source_is_left_for_the_next_one(fault: Answer | None) -> None:
    assert fetched(fault, honest)[0] == BRANCH
    assert fetched(fault) == ([], 1)


@pytest.mark.parametrize(("size", "passes"), [(BYTES, True), (2**40, False)])
def test_a_commit_that_lists_a_size_of_its_own_choice_is_not_taken_from_anybody(size: int, passes: bool) -> None:
    """It is the one that was asked for, and well signed."""
    top, key = BRANCH[-1], KEY_OF[PEERS[0]]
    part = offer(PEERS[0], LENGTH + 1, b"payload", base=top.digest).model_copy(update={"size": size}).signed(key)
    commit = commit_on(Head(LENGTH, top.digest, Digest(top.state), 1), [part]).signed(key)
    found, _ = fetched(lambda _request: [commit], known={top.digest}.__contains__, tip=commit.digest)
    assert found == [commit] * passes


@pytest.mark.parametrize(
    ("fork", "length", "deepest", "expected"),
    [
        (10, 20, 12, True),  # leaves at 10, and 12 is as deep as may be
        (10, 20, 10, False),
        (10, 11, 19, True),  # heavier but much shorter
        (20, 25, 15, False),  # ahead of mine, on the same branch
        (0, 20, 0, False),
    ],
)
def test_how_deep_another_branch_parts_from_mine(fork: int, length: int, deepest: int, expected: bool) -> None:
    base = initial_state(spec_with(1))
    mine = grown(base.head, 20, attempt=0)
    chain = Chain(base.head, 1)
    for commit, head in mine:
        chain.add(commit)
        chain.applied(head)
    start = mine[fork - 1][1] if fork else base.head
    theirs = [commit for commit, _ in [*mine[:fork], *grown(start, length - fork, attempt=1)]]
    position = StartingPoint(base, tuple(theirs[:5]), tuple(theirs[5:]))
    assert parts_below(chain, position, deepest) is expected
