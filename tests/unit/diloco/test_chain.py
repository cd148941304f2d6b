"""The tree of commits: what fits in, which tip is the head, and what is kept of the past."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from p2ptrain.diloco.chain import (
    MAX_CONTRIBUTIONS,
    MAX_ORPHANS,
    MAX_SIBLINGS,
    MAX_SIBLINGS_OF_ONE,
    Chain,
    Commit,
    Contribution,
    Head,
    Verdict,
)
from p2ptrain.errors import MalformedError
from p2ptrain.run import NO_DIGEST, SigningKey, digest_of
from tests.unit.diloco.samples import PEERS, commit_on, offer
from tests.unit.diloco.swarm_in_memory import KEYS, RUN

ROOT = Head(0, NO_DIGEST, digest_of(b"base"), 0)


def after(commit: Commit, weight: int) -> Head:
    """The position that a commit leads to."""
    return Head(commit.height, commit.digest, digest_of(b"state after" + commit.digest), weight)


def line(count: int, start: Head = ROOT, attempt: int = 0, weight: int = 10) -> list[tuple[Commit, Head]]:
    """Commits one above the other, without contributions, each adding so much weight."""
    made: list[tuple[Commit, Head]] = []
    for _ in range(count):
        commit = commit_on(start, attempt=attempt)
        start = after(commit, start.weight + weight)
        made.append((commit, start))
    return made


def chain_of(*branches: list[tuple[Commit, Head]], fragments: int = 1) -> Chain:
    """Everything in `branches`, added and applied."""
    chain = Chain(ROOT, fragments)
    for commit, position in (pair for branch in branches for pair in branch):
        assert chain.add(commit) is Verdict.ADDED
        chain.applied(position)
    return chain


# Records ---------------------------------------------------------------------------------------------------------


def test_the_largest_commit_fits_its_bound() -> None:
    part = offer(PEERS[0], 2**53 - 1, b"data", base=digest_of(b"base"), tokens=2**53 - 1, steps=2**53 - 1)
    largest = part.model_copy(update={"size": 2**53 - 1, "signature": bytes(64)})
    parts = (Contribution(**dict(largest)),) * MAX_CONTRIBUTIONS
    commit = Commit.model_construct(
        author=PEERS[0],
        signature=bytes(64),
        run=RUN,
        height=2**53 - 1,
        parent=RUN,
        state=RUN,
        attempt=2**31 - 1,
        contributions=parts,
    )
    assert len(commit.encoded) <= Commit.max_bytes
    assert len(parts[0].encoded) <= Contribution.max_bytes


@pytest.mark.parametrize(
    "parts",
    [
        (offer(PEERS[1], 1, b"a"), offer(PEERS[0], 1, b"b")),  # out of order
        (offer(PEERS[0], 1, b"a"), offer(PEERS[0], 1, b"b")),  # two of one author
        (offer(PEERS[0], 2, b"a"),),  # for another height
        (offer(PEERS[0], 1, b"a").model_copy(update={"run": digest_of(b"another run")}),),
    ],
)
def test_a_commit_lists_contributions_of_its_round_in_order_one_each(parts: tuple[Contribution, ...]) -> None:
    fields = dict(commit_on(ROOT))
    with pytest.raises(ValidationError, match="contribution"):
        Commit(**{**fields, "contributions": parts})


def test_a_commit_stands_only_with_the_signatures_of_leader_and_contributors() -> None:
    keys = sorted(KEYS[:2], key=lambda key: key.peer_id)
    parts = [offer(key.peer_id, 1, key.peer_id.encode()).signed(key) for key in keys]
    signed = commit_on(ROOT, parts, leader=keys[0].peer_id).signed(keys[0])
    assert Commit.decode(signed.encoded).check_signatures() == signed
    unsigned_part = Contribution(**{**dict(parts[1]), "signature": b""})
    forged = commit_on(ROOT, [parts[0], unsigned_part], leader=keys[0].peer_id).signed(keys[0])
    with pytest.raises(MalformedError, match="not signed"):
        forged.check_signatures()
    with pytest.raises(MalformedError, match="not signed"):
        commit_on(ROOT, parts, leader=keys[0].peer_id).check_signatures()


# What fits in ----------------------------------------------------------------------------------------------------


def test_a_commit_is_added_once() -> None:
    chain, [(commit, _)] = Chain(ROOT, 1), line(1)
    assert [chain.add(commit), chain.add(commit)] == [Verdict.ADDED, Verdict.KNOWN]
    assert commit.digest in chain
    assert chain.commit(commit.digest) == commit
    assert list(chain.commits()) == [commit]


def test_orphans_wait_for_their_parents() -> None:
    commits = [commit for commit, _ in line(4)]
    chain = Chain(ROOT, 1)
    assert [chain.add(commit) for commit in commits[:0:-1]] == [Verdict.ORPHAN] * 3
    assert chain.add(commits[3]) is Verdict.KNOWN
    assert not any(commit.digest in chain for commit in commits)
    chain.add(commits[0])
    assert all(commit.digest in chain for commit in commits)


@pytest.mark.parametrize("one_parent", [True, False])
def test_orphans_are_bounded_and_the_newest_are_kept(one_parent: bool) -> None:
    chain = Chain(ROOT, 1)
    nowhere = [Head(5, digest_of(b"x" if one_parent else bytes([i % 251, i // 251])), RUN, 0) for i in range(600)]
    orphans = [commit_on(head, attempt=i) for i, head in enumerate(nowhere)]
    for orphan in orphans:
        assert chain.add(orphan) is Verdict.ORPHAN
    assert all(chain.add(orphan) is Verdict.KNOWN for orphan in orphans[-MAX_ORPHANS // 4 :])
    assert chain.add(orphans[0]) is Verdict.ORPHAN, "forgotten"


def test_a_parent_has_a_bounded_number_of_children() -> None:
    chain = Chain(ROOT, 1)
    leaders = [
        SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)).peer_id for n in range(MAX_SIBLINGS + 3)
    ]
    commits = [commit_on(ROOT, leader=leader) for leader in leaders]
    assert [chain.add(commit) for commit in commits] == [Verdict.ADDED] * MAX_SIBLINGS + [Verdict.REFUSED] * 3


def test_one_author_can_not_fill_the_place_below_a_parent() -> None:
    chain = Chain(ROOT, 1)
    flood = [chain.add(commit_on(ROOT, attempt=attempt)) for attempt in range(MAX_SIBLINGS_OF_ONE + 3)]
    assert flood == [Verdict.ADDED] * MAX_SIBLINGS_OF_ONE + [Verdict.REFUSED] * 3
    assert chain.add(commit_on(ROOT, leader=PEERS[1])) is Verdict.ADDED


def test_a_commit_of_the_wrong_height_is_refused() -> None:
    chain, [(first, _)] = Chain(ROOT, 1), line(1)
    chain.add(first)
    fields = {**dict(commit_on(ROOT)), "parent": first.digest, "height": 3}
    assert chain.add(Commit(**fields)) is Verdict.REFUSED


def test_a_contribution_to_another_base_is_refused() -> None:
    """With two fragments a contribution for height 3 stands on the commit of height 1, on the same branch."""
    branch, rival = line(2), line(1, attempt=1)
    chain = chain_of(branch, rival, fragments=2)
    tip = branch[-1][1]
    for base in (NO_DIGEST, rival[0][0].digest, branch[1][0].digest):
        assert chain.add(commit_on(tip, [offer(PEERS[0], 3, b"a", base=base)])) is Verdict.REFUSED
    assert chain.base_for(3, tip.commit) == branch[0][0].digest
    assert chain.add(commit_on(tip, [offer(PEERS[0], 3, b"a", base=branch[0][0].digest)])) is Verdict.ADDED


# The head --------------------------------------------------------------------------------------------------------


def test_heads_rank_by_weight_then_the_lower_height_then_the_lower_digest() -> None:
    low, high = sorted([digest_of(b"one"), digest_of(b"two")])
    ranked = [Head(9, low, RUN, 1), Head(3, high, RUN, 2), Head(2, high, RUN, 2), Head(2, low, RUN, 2)]
    assert sorted(ranked, key=lambda head: head.rank) == ranked
    assert all(left.rank < right.rank for left, right in pairwise(ranked))


@given(
    tree=st.lists(st.tuples(st.integers(0, 100), st.sampled_from([0, 0, 5, 7])), min_size=1, max_size=24),
    seed=st.integers(0, 2**32),
)
def test_any_order_of_adding_and_applying_gives_the_same_head(tree: list[tuple[int, int]], seed: int) -> None:
    positions, commits = [ROOT], list[Commit]()
    for attempt, (parent, tokens) in enumerate(tree):
        below = positions[parent % len(positions)]
        commits.append(commit_on(below, leader=PEERS[attempt % len(PEERS)], attempt=attempt))
        positions.append(after(commits[-1], below.weight + tokens))
    by_digest = {position.commit: position for position in positions}
    order = random.Random(seed)
    bag = order.sample(commits * 2, 2 * len(commits))  # everything arrives twice
    chain = Chain(ROOT, 1)
    while bag or next(chain.ready(), None):
        ready = list(chain.ready())
        if ready and (not bag or order.random() < 0.5):
            before = chain.head
            position = by_digest[order.choice(ready).digest]
            assert chain.applied(position) == (chain.head != before)
        else:
            chain.add(bag.pop())
    assert all(chain.position(commit.digest) == by_digest[commit.digest] for commit in commits)
    assert chain.head == max(positions, key=lambda position: position.rank)


def test_a_longer_branch_does_not_beat_a_heavier_one() -> None:
    long, heavy = line(5, weight=1), line(2, attempt=1, weight=100)
    assert chain_of(long, heavy).head == heavy[-1][1]
    assert chain_of(heavy, long).head == heavy[-1][1]


def test_commits_in_which_nothing_counts_move_nobodys_head() -> None:
    assert chain_of(line(5, weight=0)).head == ROOT
    nothing = line(2, weight=0)
    something = line(1, nothing[-1][1])
    assert chain_of(nothing, something).head == something[-1][1]


def test_the_way_to_a_commit_is_what_must_still_be_applied() -> None:
    branch = line(4)
    chain = chain_of(branch[:2])
    for commit, _ in branch[2:]:
        chain.add(commit)
    tip = branch[-1][0].digest
    assert chain.path_to(tip) == [branch[3][0], branch[2][0]]
    assert chain.path_to(chain.head.commit) == []
    assert chain.path_to(digest_of(b"unknown")) is None
    chain.refuse(branch[2][0].digest, differs=False)
    assert chain.path_to(tip) is None


def test_only_what_is_applied_here_can_be_the_head() -> None:
    (first, one), (second, _) = line(2)
    chain = Chain(ROOT, 1)
    assert not chain.applied(one), "not known"
    chain.add(first)
    chain.add(second)
    assert chain.head == ROOT
    assert list(chain.ready()) == [first]
    assert chain.applied(one)
    assert not chain.applied(one), "already"
    assert list(chain.ready()) == [second]
    assert (chain.position(first.digest), chain.position(second.digest)) == (one, None)


@pytest.mark.parametrize("differs", [True, False])
def test_a_refused_commit_and_what_is_built_on_it_are_never_applied(differs: bool) -> None:
    (first, one), (second, two) = line(2)
    chain = Chain(ROOT, 1)
    chain.add(first)
    chain.refuse(first.digest, differs)
    chain.add(second)
    assert list(chain.ready()) == []
    assert chain.contradicts(one) is chain.contradicts(two) is differs
    chain.refuse(digest_of(b"unknown"), differs)


def test_another_state_after_the_same_commit_is_a_contradiction() -> None:
    branch = line(2)
    chain = chain_of(branch)
    position = branch[0][1]
    assert not chain.contradicts(position)
    assert chain.contradicts(Head(1, position.commit, digest_of(b"other bits"), position.weight))
    assert not chain.contradicts(Head(7, digest_of(b"unknown"), RUN, 0))


# Looking back ----------------------------------------------------------------------------------------------------


def test_fork_depth_counts_the_heads_commits_that_another_branch_lacks() -> None:
    trunk = line(3)
    mine = line(4, trunk[-1][1], weight=100)
    theirs = line(2, trunk[-1][1], attempt=1)
    chain = chain_of(trunk, mine, theirs)
    assert chain.head == mine[-1][1]
    assert [chain.fork_depth(position.commit) for _, position in theirs] == [4, 4]
    assert [chain.fork_depth(position.commit) for _, position in trunk] == [6, 5, 4]
    assert [chain.fork_depth(position.commit) for _, position in mine] == [3, 2, 1, 0]
    assert chain.fork_depth(NO_DIGEST) == 7


def test_a_chain_that_begins_above_genesis_knows_its_bases_from_history() -> None:
    commits, positions = zip(*line(6), strict=True)
    chain = Chain(positions[3], 3, commits[1:4])  # a snapshot of height 4, with the commits of heights 2, 3 and 4
    assert [chain.base_for(height, positions[3].commit) for height in (5, 6, 7)] == [c.digest for c in commits[1:4]]
    assert chain.ancestor(positions[3].commit, 1) is None, "older than the history"
    assert chain.ancestor(positions[3].commit, 0) == NO_DIGEST
    assert list(chain.back_from(chain.head.commit)) == list(commits[3:0:-1])
    assert chain.add(commits[2]) is Verdict.REFUSED
    assert chain.add(commits[4]) is Verdict.ADDED
    assert list(chain.back_from(commits[4].digest)) == list(commits[4:0:-1])


def test_forgetting_keeps_the_branch_its_bases_and_what_forks_off_above() -> None:
    branch = line(10)
    above, below = line(2, branch[7][1], attempt=1, weight=1), line(2, branch[2][1], attempt=2, weight=1)
    chain = chain_of(branch, above, below, fragments=4)
    tip, path = chain.head, list(chain.back_from(chain.head.commit))
    bases = {height: chain.base_for(height, tip.commit) for height in range(7, 12)}
    chain.forget_below(6)
    assert (chain.root, chain.head) == (branch[5][1], tip)
    assert list(chain.back_from(tip.commit)) == path
    assert {height: chain.base_for(height, tip.commit) for height in range(7, 12)} == bases
    assert all(commit.digest in chain for commit, _ in above)
    assert not any(commit.digest in chain for commit, _ in below)
    assert chain.fork_depth(above[-1][1].commit) == 2
    assert chain.add(below[0][0]) is Verdict.REFUSED
    chain.forget_below(8)
    assert list(chain.back_from(tip.commit)) == path, "history is handed on"


@pytest.mark.parametrize("height", [0, 3, 11])
def test_forgetting_never_goes_back_nor_past_the_head(height: int) -> None:
    branch = line(10)
    chain = chain_of(branch)
    chain.forget_below(3)
    known = list(chain.commits())
    chain.forget_below(height)
    assert chain.root == branch[2][1]
    assert list(chain.commits()) == known


def test_orphans_that_came_too_late_are_forgotten() -> None:
    chain = chain_of(line(10))
    late, waiting = Head(4, digest_of(b"late"), RUN, 0), Head(10, digest_of(b"waiting"), RUN, 0)
    chain.add(commit_on(late))
    chain.add(commit_on(waiting))
    chain.forget_below(8)
    assert chain.add(commit_on(waiting)) is Verdict.KNOWN
    assert chain.add(commit_on(late)) is Verdict.REFUSED
