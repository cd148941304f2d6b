"""What a peer loses by following the heavier branch: the commits that it takes back, and the tokens in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.run import NO_DIGEST, Digest, PeerId
from p2ptrain.state import Rollback

Find = Callable[[Digest], Commit | None]


def rollback(old: Digest, new: Digest, find: Find, me: PeerId, cap: int) -> Rollback:
    """Compare the branches of two heads down to their common commit, or down to the first one that `find` lacks.

    Counts the commits that only the old branch has, and the tokens of contributions that only the old branch lists,
    at most `cap` for one contribution. The lost tokens of this peer, `me`, are also counted on their own.
    """
    taken_back, instead = branches_of(old, new, find)
    kept = {_work(part) for commit in instead for part in commit.contributions}
    lost = [part for commit in taken_back for part in commit.contributions if _work(part) not in kept]
    own = [part for part in lost if part.author == me]
    return Rollback(old, new, len(taken_back), _tokens(lost, cap), _tokens(own, cap))


def branches_of(left: Digest, right: Digest, find: Find) -> tuple[list[Commit], list[Commit]]:
    """Each branch's commits above their common one, newest first. They end early at a commit that `find` lacks."""
    branches: tuple[list[Commit], list[Commit]] = ([], [])
    tips = [left, right]
    while tips[0] != tips[1]:
        found = [find(tip) for tip in tips]
        if any(commit is None and tip != NO_DIGEST for commit, tip in zip(found, tips, strict=True)):
            break
        top = max(commit.height for commit in found if commit is not None)
        for index, commit in enumerate(found):  # a step down on both if they are level, so that neither skips a height
            if commit is not None and commit.height == top:
                branches[index].append(commit)
                tips[index] = commit.parent
    return branches


def _work(part: Contribution) -> tuple[str, int, bytes]:
    """Identifies a contribution. The payload alone does not: another peer, or the same one at another height, may have
    trained to the same bytes."""
    return part.author, part.height, part.payload


def _tokens(contributions: Iterable[Contribution], cap: int) -> int:
    return sum(min(contribution.tokens, cap) for contribution in contributions)
