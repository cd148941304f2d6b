"""The border of a run: what a contribution or a commit must be before this peer makes use of it.

Everything passes here, wherever it comes from: from gossip, from a peer that hands out its branch, or from a ledger on
disk. A commit that was not checked here could make this peer fetch bytes of any size. What depends on other commits
(its height, its parent, the bases of its contributions) is for `Chain` to check, once the commit has passed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.codecs import CODECS
from p2ptrain.diloco.schedule import fragment_of
from p2ptrain.diloco.state import GlobalState
from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest, PeerId, RunSpec


@dataclass(frozen=True, slots=True)
class Border:
    """What every contribution and commit of one run has in common. All methods raise MalformedError."""

    run: Digest
    payload_bytes: tuple[int, ...] | None
    """Size of each fragment's payloads; the spec's codec and the model allow no other. None if no state is here to tell
    the sizes of the fragments. Then payloads' sizes are not checked: an audit has to say so."""

    @classmethod
    def of(cls, run: Digest, spec: RunSpec, elements: Sequence[int]) -> Border:
        """The border of a run whose fragments have so many elements."""
        return cls(run, tuple(map(CODECS[spec.diloco.codec].encoded_bytes, elements)))

    @classmethod
    def around(cls, state: GlobalState, run: Digest, spec: RunSpec) -> Border:
        """The border of the run that this state belongs to."""
        return cls.of(run, spec, [len(fragment.theta.values) for fragment in state.fragments])

    def check_contribution(self, part: Contribution) -> Contribution:
        """Return the contribution if its run and its size are right. Its signature is not checked, which takes time."""
        if part.run != self.run:
            raise MalformedError("a contribution belongs to another run")
        if self.payload_bytes is not None:
            expected = self.payload_bytes[fragment_of(part.height, len(self.payload_bytes))]
            if part.size != expected:
                raise MalformedError("a contribution has the wrong size", f"{part.size} bytes, expected {expected}")
        return part

    def check_form(self, commit: Commit) -> Commit:
        """Return the commit if its run and its contributions are right. Its signatures are not checked."""
        if commit.run != self.run:
            raise MalformedError("a commit belongs to another run")
        for part in commit.contributions:
            self.check_contribution(part)
        return commit

    def check_commit(self, commit: Commit, is_member: Callable[[PeerId], bool]) -> Commit:
        """Return the commit if its form is right, and members, present or former, have signed all of it."""
        self.check_form(commit)
        if not all(map(is_member, commit.signers)):
            raise MalformedError("a commit is signed by a peer that was never a member of the run")
        return commit.check_signatures()
