"""The grammar of a DiLoCo ledger: contributions, commits, and the tree in which every peer finds the same head.

    weight(commit) = Σ min(tokens, cap)     over all contributions that counted in its branch since genesis
    head           = the applied commit of the greatest weight; if equal, the one of the shorter branch, then the one of
                     the lower digest

Commit k names its parent, commit k−1, and the digest of the state before it. Two leaders may extend one parent, and
each side of a partition goes on by itself; so commits form a tree. The order above is total, and only commits that this
peer has *applied* itself count. So peers that have applied the same commits have the same head, and a commit in which
no contribution counts does not move anybody's head.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from p2ptrain.run import NO_DIGEST, Digest, PeerId
from p2ptrain.run.head import Head
from p2ptrain.run.record import Count, DigestField, SignedRecord

MAX_CONTRIBUTIONS = 128
MAX_SIBLINGS = 128
MAX_SIBLINGS_OF_ONE = 4
"""Most commits on one parent: by all authors, and by one. An honest leader makes at most one after each start."""
MAX_ORPHANS = 256
KEPT_HISTORY = 1024 + 4
"""Commits below the root that a chain remembers: the largest number of fragments, and a few for choosing leaders."""


class Contribution(SignedRecord):
    """A peer's signed announcement of its encoded pseudo-gradient for one height."""

    kind: ClassVar[str] = "contribution/1"
    max_bytes: ClassVar[int] = 1024

    run: DigestField
    height: Annotated[int, Field(ge=1, lt=2**53)]
    base: DigestField
    """The commit of height − P, which updated the fragment last. The pseudo-gradient is relative to its state."""
    payload: DigestField
    size: Count
    """Bytes of the payload."""
    tokens: Annotated[int, Field(ge=1, lt=2**53)]
    """Tokens trained on since this peer's last contribution to the fragment."""
    steps: Annotated[int, Field(ge=1, lt=2**53)]
    """Inner steps since then."""


class Commit(SignedRecord):
    """The outcome of a round; its author is the leader that closed it."""

    kind: ClassVar[str] = "commit/1"

    run: DigestField
    height: Annotated[int, Field(ge=1, lt=2**53)]
    parent: DigestField
    state: DigestField
    """Digest of the state before this commit."""
    attempt: Annotated[int, Field(ge=0, lt=2**31)]
    contributions: Annotated[tuple[Contribution, ...], Field(max_length=MAX_CONTRIBUTIONS)]
    """Sorted by their authors' peer ids, one per author."""

    @model_validator(mode="after")
    def _well_formed(self) -> Self:
        authors = [contribution.author for contribution in self.contributions]
        if any(left >= right for left, right in pairwise(authors)):
            raise ValueError("contributions must be sorted by author, one per author")
        if any((part.run, part.height) != (self.run, self.height) for part in self.contributions):
            raise ValueError("a contribution belongs to another run or height")
        return self

    def check_signatures(self) -> Self:
        """Return this commit. Raises MalformedError if the leader or a contributor has not signed its part."""
        for contribution in self.contributions:
            contribution.check_signature()
        return self.check_signature()

    @property
    def signers(self) -> set[PeerId]:
        """The leader and the contributors."""
        return {self.author, *(contribution.author for contribution in self.contributions)}


class Verdict(Enum):
    """What `Chain.add` did with a commit."""

    ADDED = "added"
    KNOWN = "already known"
    ORPHAN = "its parent is not known yet"
    REFUSED = "it does not fit"


@dataclass(slots=True)
class _Node:
    height: int
    parent: Digest | None
    commit: Commit | None
    """None only for the root."""
    applied: Head | None = None
    """The position that the commit leads to, once it is applied."""
    refused: bool = False
    contradicted: bool = False
    children: list[Digest] = field(default_factory=list)


class Chain:
    """The tree of commits above a root position. Pure: it knows no network, no clock and no bytes of payloads.

    Args:
        root: the position of the snapshot that this peer starts from.
        fragments: P.
        history: the commits up to and including the root's own, oldest first; none at genesis. The last P are the
            bases of the first contributions above the root.
    """

    def __init__(self, root: Head, fragments: int, history: Sequence[Commit] = ()) -> None:
        self._fragments = fragments
        self._nodes = {root.commit: _Node(root.height, None, None, root)}
        self._history = {commit.height: commit for commit in reversed(history)}  # newest first
        self._orphans: dict[Digest, dict[Digest, Commit]] = defaultdict(dict)
        self.root = root
        self.head = root

    def add(self, commit: Commit) -> Verdict:
        """Take in a commit whose signatures have been checked. It waits here if its parent is not known yet."""
        if commit.digest in self._nodes or commit.digest in self._orphans.get(commit.parent, ()):
            return Verdict.KNOWN
        if commit.height <= self.root.height:
            return Verdict.REFUSED
        parent = self._nodes.get(commit.parent)
        if parent is None:
            if sum(map(len, self._orphans.values())) >= MAX_ORPHANS:
                self._orphans.pop(next(iter(self._orphans)))
            self._orphans[commit.parent][commit.digest] = commit
            return Verdict.ORPHAN
        if not self._fits(commit, parent):
            return Verdict.REFUSED
        parent.children.append(commit.digest)
        self._nodes[commit.digest] = _Node(commit.height, commit.parent, commit)
        for orphan in self._orphans.pop(commit.digest, {}).values():
            self.add(orphan)
        return Verdict.ADDED

    def _fits(self, commit: Commit, parent: _Node) -> bool:
        if commit.height != parent.height + 1 or len(parent.children) >= MAX_SIBLINGS:
            return False
        siblings = (self._nodes[digest].commit for digest in parent.children)
        if sum(other is not None and other.author == commit.author for other in siblings) >= MAX_SIBLINGS_OF_ONE:
            return False
        base = self.base_for(commit.height, commit.parent)
        return all(contribution.base == base for contribution in commit.contributions)

    def ready(self) -> Iterator[Commit]:
        """Commits that can be applied next: their parent is applied, and they are neither applied nor refused."""
        for node in self._nodes.values():
            if node.commit is None or node.parent is None or node.applied or node.refused:
                continue
            if self._nodes[node.parent].applied:
                yield node.commit

    def applied(self, position: Head) -> bool:
        """Record the position that an applied commit led to. Returns True if it is the new head."""
        node = self._nodes.get(position.commit)
        if node is None or node.applied:
            return False
        node.applied = position
        if position.rank <= self.head.rank:
            return False
        self.head = position
        return True

    def refuse(self, digest: Digest, differs: bool) -> None:
        """Never apply this commit, nor any above it. `differs`: it was made on another state than this peer's."""
        if digest in self._nodes:
            self._nodes[digest].refused, self._nodes[digest].contradicted = True, differs

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._nodes

    def position(self, digest: Digest) -> Head | None:
        """The position that a commit led to; None if it was not applied here."""
        node = self._nodes.get(digest)
        return node.applied if node else None

    def contradicts(self, head: Head) -> bool:
        """Whether another peer's head shows that its state differs from this peer's: it names another state for the
        same commit, or it stands on a commit that was made on another state."""
        if (position := self.position(head.commit)) is not None:
            return position.state != head.state
        return any(node.contradicted for node in self._unapplied(head.commit))

    def is_on_branch(self, head: Head) -> bool | None:
        """Whether another peer's head is this peer's head or below it. None if that is further back than the history.

        Heights alone can't tell, because a shorter branch can be the heavier one.
        """
        if head.height > self.head.height or self.contradicts(head):
            return False
        mine = self.ancestor(self.head.commit, head.height)
        return None if mine is None else mine == head.commit

    def path_to(self, digest: Digest) -> list[Commit] | None:
        """The commits that must still be applied to reach this one, newest first. None if one of them is unknown or was
        refused."""
        if digest not in self._nodes:
            return None
        nodes = list(self._unapplied(digest))
        return None if any(node.refused for node in nodes) else [node.commit for node in nodes if node.commit]

    def _unapplied(self, digest: Digest) -> Iterator[_Node]:
        while (node := self._nodes.get(digest)) is not None and node.parent is not None and node.applied is None:
            yield node
            digest = node.parent

    def commits(self) -> Iterator[Commit]:
        """All commits above the root, on any branch."""
        return (node.commit for node in self._nodes.values() if node.commit is not None)

    def lists(self, payload: Digest) -> bool:
        """Whether a commit above the root, on any branch, lists this payload."""
        return any(part.payload == payload for commit in self.commits() for part in commit.contributions)

    def commit(self, digest: Digest) -> Commit | None:
        node = self._nodes.get(digest)
        return node.commit if node else None

    def back_from(self, digest: Digest) -> Iterator[Commit]:
        """Commits from `digest` down to the root, and then the history's."""
        while (node := self._nodes[digest]).commit is not None and node.parent is not None:
            yield node.commit
            digest = node.parent
        yield from self._history.values()

    def ancestor(self, digest: Digest, height: int) -> Digest | None:
        """The commit at `height` on the branch that ends in `digest`; None if it is older than the history."""
        if height < self.root.height:
            if height == 0:
                return NO_DIGEST
            return self._history[height].digest if height in self._history else None
        while self._nodes[digest].height > height:
            digest = self._parent(digest)
        return digest

    def base_for(self, height: int, tip: Digest) -> Digest | None:
        """The base that a contribution for `height` must have on the branch of `tip`: the commit at height − P."""
        return self.ancestor(tip, max(0, height - self._fragments))

    def fork_depth(self, tip: Digest) -> int:
        """How many of the head's commits are not on the branch of `tip`, which must be in the tree."""
        mine, theirs, depth = self.head.commit, tip, 0
        while mine != theirs:
            if self._nodes[mine].height >= self._nodes[theirs].height:
                mine, depth = self._parent(mine), depth + 1
            else:
                theirs = self._parent(theirs)
        return depth

    def _parent(self, digest: Digest) -> Digest:
        parent = self._nodes[digest].parent
        assert parent is not None, "the root has no parent, and nothing branches off below it"
        return parent

    def forget_below(self, height: int) -> None:
        """Make the head's ancestor at `height` the new root. Branches that do not pass through it are dropped."""
        if height <= self.root.height or height > self.head.height:
            return
        new_root = self.ancestor(self.head.commit, height)
        assert new_root is not None
        path = (commit for commit in self.back_from(self.head.commit) if commit.height <= height)
        self._history = {commit.height: commit for commit in path if commit.height > height - KEPT_HISTORY}
        keep: dict[Digest, _Node] = {}
        queue = [new_root]
        while queue:
            digest = queue.pop()
            keep[digest] = self._nodes[digest]
            queue.extend(keep[digest].children)
        node = keep[new_root]
        assert node.applied is not None
        node.parent = node.commit = None
        self._nodes = keep
        self.root = node.applied
        late = [parent for parent, kids in self._orphans.items() if all(kid.height <= height for kid in kids.values())]
        for parent in late:
            del self._orphans[parent]
