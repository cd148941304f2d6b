"""What an exchange shows the trainer: the head, replaced whole whenever it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from p2ptrain.diloco.chain import Commit
from p2ptrain.diloco.state import GlobalState
from p2ptrain.run import NO_DIGEST, Digest, PeerId
from p2ptrain.run.head import Head


@dataclass(frozen=True, slots=True)
class View:
    """The head, as the trainer sees it."""

    state: GlobalState
    rollbacks: int = 0
    """How often commits were taken back since the start; starting again from a snapshot counts, too."""
    commits: Mapping[int, Commit] = field(default_factory=dict)
    """The branch's last commits by height, at least one for each fragment."""
    caught_up: bool = False
    """False while this peer is still far behind the others."""

    @property
    def head(self) -> Head:
        return self.state.head

    def base_for(self, height: int, fragments: int) -> Digest:
        """The commit that a contribution for `height` is relative to."""
        below = height - fragments
        return self.commits[below].digest if below > 0 else NO_DIGEST

    def newest(self, index: int) -> int:
        """The last height that averaged this fragment; 0 or less if there is none."""
        return self.head.height - (self.head.height - index) % len(self.state.fragments)

    def may_list(self, height: int, base: Digest) -> bool:
        """Whether a contribution for that height and base can still enter this branch."""
        fragments = len(self.state.fragments)
        return 0 < height - self.head.height <= fragments and self.base_for(height, fragments) == base

    def payload_of(self, height: int, author: PeerId) -> Digest | None:
        """The payload that the commit of that height lists by that author; None if there is none."""
        commit = self.commits.get(height)
        parts = commit.contributions if commit else ()
        return next((part.payload for part in parts if part.author == author), None)
