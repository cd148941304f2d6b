"""What it costs a peer to follow the heavier branch: the commits that it takes back, and the work behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.run import NO_DIGEST, Digest, PeerId
from p2ptrain.state import Rollback

Find = Callable[[Digest], Commit | None]


def rollback(old: Digest, new: Digest, find: Find, me: PeerId, cap: int) -> Rollback:
    """Compare the branches of two heads down to where they part, or to where `find` knows no more.

    Args:
        cap: tokens that one contribution can weigh.

    Returns:
        The commits of the old branch that are not on the new one; tokens (capped) of the contributions that these list
        and the new branch does not.
    """
    taken_back, instead = branches_of(old, new, find)
    kept = {_work(part) for commit in instead for part in commit.contributions}
    lost = [part for commit in taken_back for part in commit.contributions if _work(part) not in kept]
    return Rollback(
        old, new, len(taken_back), _tokens(lost, cap), _tokens((gone for gone in lost if gone.author == me), cap)
    )


def branches_of(left: Digest, right: Digest, find: Find) -> tuple[list[Commit], list[Commit]]:
    """The commits of either branch above the one that both share, newest first; they end early where `find` does."""
    branches: tuple[list[Commit], list[Commit]] = ([], [])
    tips = [left, right]
    while tips[0] != tips[1]:
        found = [find(tip) for tip in tips]
        if any(commit is None and tip != NO_DIGEST for commit, tip in zip(found, tips, strict=True)):
            break
        top = max(commit.height for commit in found if commit is not None)
        for index, commit in enumerate(found):  # both where they are level: neither is missing a height of the other
            if commit is not None and commit.height == top:
                branches[index].append(commit)
                tips[index] = commit.parent
    return branches


def _work(part: Contribution) -> tuple[str, int, bytes]:
    """What a contribution stands for: others may have trained to the same bytes, and so may its author for another
    height."""
    return part.author, part.height, part.payload


def _tokens(contributions: Iterable[Contribution], cap: int) -> int:
    return sum(min(contribution.tokens, cap) for contribution in contributions)
