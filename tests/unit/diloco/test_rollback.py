"""What a rollback cost is what the branch that was left lists and the one that stays does not."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.replica import StartingPoint
from p2ptrain.diloco.rollback import rollback
from p2ptrain.run import NO_DIGEST, Digest, PeerId, digest_of
from p2ptrain.run.head import Head
from p2ptrain.state import Rollback
from tests.unit.diloco.peers import BASE, GENESIS, open_peer
from tests.unit.diloco.samples import PEERS, commit_on, offer

ME, ALICE, BOB, *_ = PEERS
ROOT = Head(0, NO_DIGEST, digest_of(b"base"), 0)
CAP = 250


@dataclass
class Tree:
    """Commits by digest; a commit is made on any other, or on the root."""

    commits: dict[Digest, Commit] = field(default_factory=dict)

    def grow(self, parent: Digest, parts: Iterable[Contribution] = ()) -> Digest:
        height = self.commits[parent].height if parent != NO_DIGEST else 0
        head = Head(height, parent, ROOT.state, 0)
        commit = commit_on(head, parts, attempt=len(self.commits))
        self.commits[commit.digest] = commit
        return commit.digest

    def line(self, parent: Digest, *parts: Iterable[Contribution]) -> Digest:
        """The tip of commits that list these, one above the other."""
        for listed in parts:
            parent = self.grow(parent, listed)
        return parent

    def branch(self, tip: Digest) -> list[Commit]:
        """By brute force: all commits down to the root."""
        found = []
        while tip != NO_DIGEST:
            found.append(self.commits[tip])
            tip = Digest(found[-1].parent)
        return found

    def cost(self, old: Digest, new: Digest) -> Rollback:
        return rollback(old, new, self.commits.get, ME, CAP)


def work(author: PeerId, height: int, tokens: int = 100, seed: int = 0) -> Contribution:
    return offer(author, height, f"{author} {height} {seed}".encode(), tokens=tokens)


# Against brute force -----------------------------------------------------------------------------------------------


def random_tree(chance: random.Random, size: int) -> Tree:
    """Contributions are few, so that branches list the same ones."""
    tree = Tree()
    tips = [NO_DIGEST]
    for _ in range(size):
        parent = chance.choice(tips[-4:])
        height = tree.commits[parent].height + 1 if parent != NO_DIGEST else 1
        authors = chance.sample([ME, ALICE, BOB], chance.randrange(4))
        parts = [work(author, height, 100 * (1 + height % 5), chance.randrange(2)) for author in authors]
        tips.append(tree.grow(parent, parts))
    return tree


@given(seed=st.integers(0, 2**32), size=st.integers(1, 14), data=st.data())
def test_costs_are_those_of_brute_force(seed: int, size: int, data: st.DataObject) -> None:
    tree = random_tree(random.Random(seed), size)
    tips = st.sampled_from([NO_DIGEST, *tree.commits])
    old, new = data.draw(tips), data.draw(tips)
    ours, theirs = tree.branch(old), tree.branch(new)
    gone = [commit for commit in ours if commit not in theirs]
    kept = {part for commit in theirs for part in commit.contributions}
    lost = [part for commit in gone for part in commit.contributions if part not in kept]
    tokens = sum(min(part.tokens, CAP) for part in lost)
    own_tokens = sum(min(part.tokens, CAP) for part in lost if part.author == ME)
    assert tree.cost(old, new) == Rollback(old, new, len(gone), tokens, own_tokens)


@given(seed=st.integers(0, 2**32), size=st.integers(1, 14), data=st.data())
def test_as_far_down_as_commits_are_known_all_is_counted(seed: int, size: int, data: st.DataObject) -> None:
    tree = random_tree(random.Random(seed), size)
    old, new = (data.draw(st.sampled_from([*tree.commits])) for _ in range(2))
    floor = data.draw(st.integers(1, 6))
    known = {digest: commit for digest, commit in tree.commits.items() if commit.height > floor}
    cost = rollback(old, new, known.get, ME, CAP)
    gone = [commit.height for commit in tree.branch(old) if commit not in tree.branch(new)]
    if old in known and new in known:
        assert cost.commits == sum(height > floor for height in gone)
        assert cost.tokens <= tree.cost(old, new).tokens
    elif old != new:
        assert cost == Rollback(old, new, 0, 0, 0)


# One by one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", [0, 3])
def test_what_both_branches_list_is_not_lost(below: int) -> None:
    """Also where they part right above the root."""
    tree = Tree()
    base = tree.line(NO_DIGEST, *[[work(ALICE, height)] for height in range(1, below + 1)])
    mine, alices, bobs = (work(author, below + 1) for author in (ME, ALICE, BOB))
    old = tree.line(base, [mine, alices], [work(ME, below + 2)])
    new = tree.line(base, [mine, bobs], [work(BOB, below + 2)])
    assert tree.cost(old, new) == Rollback(old, new, 2, 200, 100)


def test_the_same_bytes_by_somebody_else_or_for_another_height_make_up_for_nothing() -> None:
    tree, same = Tree(), b"nothing was learned"
    old = tree.line(NO_DIGEST, [offer(ME, 1, same)], [])
    new = tree.line(NO_DIGEST, [offer(ALICE, 1, same)], [offer(ME, 2, same)])
    assert tree.cost(old, new) == Rollback(old, new, 2, 100, 100)


def test_tokens_count_as_much_as_they_weigh() -> None:
    tree = Tree()
    old = tree.line(NO_DIGEST, [work(ME, 1, 10**9), work(BOB, 1, CAP - 1)])
    new = tree.line(NO_DIGEST, [work(ALICE, 1)])
    assert tree.cost(old, new) == Rollback(old, new, 1, CAP + CAP - 1, CAP)


def test_who_only_goes_on_loses_nothing() -> None:
    tree = Tree()
    old = tree.line(NO_DIGEST, [work(ME, 1)], [work(ME, 2)])
    new = tree.line(old, [work(ME, 3)])
    assert tree.cost(old, new) == Rollback(old, new, 0, 0, 0)
    assert tree.cost(new, old) == Rollback(new, old, 1, 100, 100), "and the other way round"
    assert tree.cost(old, old).commits == tree.cost(NO_DIGEST, old).commits == 0


def test_a_head_that_nobody_knows_costs_nothing() -> None:
    tree, unknown = Tree(), digest_of(b"unknown")
    old = tree.line(NO_DIGEST, [work(ME, 1)])
    assert tree.cost(old, unknown) == Rollback(old, unknown, 0, 0, 0)
    assert tree.cost(unknown, old) == Rollback(unknown, old, 0, 0, 0)


# In a folder -------------------------------------------------------------------------------------------------------


def test_a_peer_counts_what_it_took_back_since_its_folder_was_made(tmp_path: Path) -> None:
    with open_peer(tmp_path) as peer:
        peer.replica.begin(StartingPoint(BASE))
        peer.grow(4)
        fork, left = peer.states[1], peer.states[4]
        rival = commit_on(fork.head, [peer.contribute(fork, 99)], attempt=1, run=GENESIS.digest)
        peer.replica.apply(rival)
        assert peer.replica.taken_back == 0
        for times in (1, 2):
            cost = peer.replica.note_rollback(left.commit, rival.digest, PEERS[0])
            assert (cost.old, cost.new, cost.commits, cost.tokens) == (left.commit, rival.digest, 3, 600)
            assert peer.replica.taken_back == 3 * times
        assert peer.replica.note_rollback(BASE.commit, rival.digest, PEERS[0]).commits == 0
        assert [past.commits for past in peer.folder.ledger.rollbacks()] == [3, 3, 0]
        assert peer.restarted().replica.taken_back == 6
        assert peer.folder.ledger.commit(left.commit) == peer.commits[3].encoded, "the branch that was left stays"
