"""This peer's copy of a run: the states that it can compute and the payloads that it holds.

A state is a pure function of a snapshot and the commits above it (`state_at`); everything here rests on that. The calls
block, so the shell makes them on its worker threads.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from p2ptrain.diloco.border import Border
from p2ptrain.diloco.chain import KEPT_HISTORY, Commit, Contribution
from p2ptrain.diloco.codecs import CODECS
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.outer import Applied, replay
from p2ptrain.diloco.rollback import rollback
from p2ptrain.diloco.schedule import fragment_of
from p2ptrain.diloco.snapshots import CONTRIBUTION, Snapshots, commit_of
from p2ptrain.diloco.state import GlobalState
from p2ptrain.errors import LedgerError, MalformedError, StorageError
from p2ptrain.method import AnotherModel
from p2ptrain.run import NO_DIGEST, Digest, Manifest, PeerId, short
from p2ptrain.run.digest import Buffer
from p2ptrain.state import NO_LIMITS, Blobs, HeadSeen, Limits, Rollback, RunFolder
from p2ptrain.swarm import Presence

log = logging.getLogger(__name__)


class StateGone(LedgerError):
    """A state can't be computed here any more, because a snapshot or a payload that it needs is gone."""


@dataclass(frozen=True)
class StartingPoint:
    """Where a peer can start: a state, the commits below it and the known commits above it, oldest first."""

    state: GlobalState
    history: tuple[Commit, ...] = ()
    above: tuple[Commit, ...] = ()


class Replica:
    """The states and payloads of one run on this machine. States are computed from `snapshots`."""

    def __init__(self, folder: RunFolder, layout: Layout | None, blobs: Blobs, limits: Limits = NO_LIMITS) -> None:
        self._run, self._spec = folder.run, folder.spec
        self._ledger, self._blobs = folder.ledger, blobs
        self._recent: OrderedDict[Digest, GlobalState] = OrderedDict()
        self.snapshots = Snapshots(folder, layout, blobs, limits)
        self.taken_back = sum(past.commits for past in folder.ledger.rollbacks())
        """Commits that this peer has taken back since the folder was made."""

    # States --------------------------------------------------------------------------------------------------------

    def apply(self, commit: Commit) -> Applied:
        """Compute and remember the state after a commit whose payloads are all here.

        Raises LedgerError if the commit was made on another state than this peer's, and StateGone if its parent's state
        can't be computed any more.
        """
        parent = self.state_at(commit.parent)
        (result,) = replay(parent, [commit], self._payload, self._spec)
        self._remember(result.state)
        self._ledger.add_commit(commit.digest, commit.height, commit.parent, commit.encoded)
        return result

    def state_at(self, commit: Digest) -> GlobalState:
        """The state after a commit, remembered or replayed from the nearest state below it. Raises StateGone if no
        snapshot below it is left, or payloads above the snapshot are gone."""
        above: list[Commit] = []
        while (state := self._recent.get(commit) or self.snapshots.at(commit)) is None:
            step = self._commit(commit)
            if step is None:
                raise StateGone("a state can't be computed", "no snapshot below it is left")
            above.append(step)
            commit = step.parent
        self._remember(state)
        for applied in replay(state, reversed(above), self._payload, self._spec):
            self._remember(state := applied.state)
        return state

    def _commit(self, digest: Digest) -> Commit | None:
        record = self._ledger.commit(digest)
        return None if record is None else Commit.decode(record)

    def _remember(self, state: GlobalState) -> None:
        # One cycle of fragments and a few more. Neighbours share all fragments but one, so a state costs one fragment.
        self._recent[state.commit] = state
        self._recent.move_to_end(state.commit)
        while len(self._recent) > self._spec.diloco.fragments + 2:
            self._recent.popitem(last=False)

    # Payloads ------------------------------------------------------------------------------------------------------

    def store_payload(self, contribution: Contribution, data: Buffer, state: GlobalState) -> bool:
        """Keep and serve a contribution's bytes. Returns False if they are malformed; then they do not count."""
        with self.snapshots.filing:
            self._ledger.add_payload(contribution.payload, contribution.height, data)
            self._hold(contribution.payload, data)
        fragment = state.fragments[fragment_of(contribution.height, len(state.fragments))]
        try:
            CODECS[self._spec.diloco.codec].open(data, len(fragment.theta.values))
        except MalformedError as error:
            author, height = contribution.author, contribution.height
            log.warning("the contribution of %s for height %d is unusable: %s", author, height, error.what)
            return False
        return True

    def _hold(self, digest: Digest, data: Buffer) -> None:
        """Serve a contribution's bytes from the ledger, so that they do not stay in memory."""
        self._blobs.hold_source(Manifest.of(data), partial(self._ledger.payload_part, digest), CONTRIBUTION)

    def _payload(self, contribution: Contribution) -> bytes:
        data = self._ledger.payload(contribution.payload)
        if data is None:
            why = f"the bytes of a contribution for height {contribution.height} are gone or damaged"
            raise StateGone("a state can't be computed", why)
        return data

    def _keep_listed(self, commits: Iterable[Commit]) -> None:
        """Keep the payloads that are here as long as these commits need them. They may have been filed for an older
        contribution of the same bytes."""
        self._ledger.keep_payloads((part.payload, part.height) for commit in commits for part in commit.contributions)

    # Starting ------------------------------------------------------------------------------------------------------

    def begin(self, position: StartingPoint) -> None:
        """Start from a state that was made or fetched: save it and the commits around it. A snapshot is dropped if this
        state can't be replayed from it here."""
        for commit in (*position.history, *position.above):
            self._ledger.add_commit(commit.digest, commit.height, commit.parent, commit.encoded)
        self._remember(position.state)
        self._keep_listed(position.above)
        self.snapshots.begin(position.state, self._leading_to(position))
        self._ledger.set_head(position.state.commit)

    def _leading_to(self, position: StartingPoint) -> set[Digest]:
        """The states, as the commits name them, from which the position's state can be replayed here."""
        leading = {position.state.digest}
        for commit in reversed(position.history):
            if any(self._ledger.payload(part.payload) is None for part in commit.contributions):
                break
            leading.add(commit.state)
        return leading

    def restore(self) -> StartingPoint | None:
        """Where this peer was when it stopped: the newest whole snapshot on the head's branch, and the commits around
        it. Snapshots of other branches that are as high or higher are dropped. None if the folder holds no usable
        snapshot; then the peer joins like a newcomer.

        Raises:
            AnotherModel: the snapshots belong to another model than the one that was built here.
        """
        self._drop_what_is_damaged()
        position: StartingPoint | None = None
        rows = self._ledger.snapshots()
        branch = self._branch_of_head(rows[-1].height if rows else 0)
        for row in sorted(rows, key=lambda row: commit_of(row) not in branch):
            try:
                state = self.snapshots.load(row)
                self.snapshots.serve(state)
                position = position or self._position_at(state)
            except AnotherModel:
                raise  # the snapshot is good, so it must not be dropped
            except (StorageError, MalformedError) as error:
                log.warning("a snapshot of height %d can't be used: %s", row.height, error)
                self.snapshots.drop([row])
        if position is None:
            return None
        self.snapshots.drop_rivals(position.state)
        self._remember(position.state)
        self._keep_listed(position.above)
        if position.state.commit not in branch:
            self._ledger.set_head(position.state.commit)
        for digest in self._ledger.payload_digests():
            if (data := self._ledger.payload(digest)) is not None:
                self._hold(digest, data)
        return position

    def _drop_what_is_damaged(self) -> None:
        """Damaged rows then count as missing; they are computed again or fetched from the others."""
        for table in ("commits", "payloads", "snapshots"):
            if count := self._ledger.drop_damaged(table):
                log.warning("%s: %d of its %s were damaged and are dropped", self._ledger.path, count, table)

    def _position_at(self, state: GlobalState) -> StartingPoint | None:
        """The state with the commits around it; None if too few commits below it are here to continue the chain."""
        commits = [Commit.decode(record) for record in self._ledger.commits(state.height - KEPT_HISTORY).values()]
        history = _branch_below(state, commits)
        if len(history) < min(state.height, len(state.fragments)):
            text = "a snapshot of height %d can't be used: %s holds too few of the commits below it"
            log.warning(text, state.height, self._ledger.path)
            return None
        border = Border.around(state, self._run, self._spec)
        above = [commit for commit in commits if commit.height > state.height and self._passes(commit, border)]
        return StartingPoint(state, tuple(history), tuple(above))

    def _passes(self, commit: Commit, border: Border) -> bool:
        """Whether a commit of the ledger is one that this peer would take from others; an older program may not have
        checked it. Its signatures were checked when it came, and its digest has not changed since."""
        try:
            border.check_form(commit)
        except MalformedError as error:
            log.warning("the commit %s of %s is left out: %s", short(commit.digest), self._ledger.path, error.what)
            return False
        return True

    def _branch_of_head(self, lowest: int) -> set[Digest]:
        """The commits from the ledger's head down to a height, or down to the first one that is missing."""
        commit = self._ledger.head
        branch = {commit}
        while (found := self._commit(commit)) is not None and found.height > lowest:
            commit = found.parent
            branch.add(commit)
        return branch

    # What happened ---------------------------------------------------------------------------------------------------

    def note_rollback(self, old: Digest, new: Digest, me: PeerId) -> Rollback:
        """Record that the head moved from one branch to another. The old branch's commits stay in the ledger."""
        noted = rollback(old, new, self._commit, me, self._spec.limits.contribution_tokens)
        self._ledger.add_rollback(noted)
        self.taken_back += noted.commits
        if noted.commits:
            text = "%d commits were taken back: branch %s is heavier than %s, which stays in the ledger. %d tokens "
            text += "do not count any more; this peer trained on %d of them"
            log.info(text, noted.commits, short(new), short(old), noted.tokens, noted.own_tokens)
        return noted

    def note_heads(self, peers: Iterable[Presence]) -> None:
        """Record the heights that other peers claim, with their signed presences."""
        self._ledger.see_heads(HeadSeen(seen.author, seen.height, seen.encoded) for seen in peers)


def _branch_below(state: GlobalState, commits: Sequence[Commit]) -> list[Commit]:
    """The known commits up to and including the state's own, oldest first."""
    by_digest = {commit.digest: commit for commit in commits}
    branch: list[Commit] = []
    at = state.commit
    while at != NO_DIGEST and at in by_digest and len(branch) < KEPT_HISTORY:
        branch.append(by_digest[at])
        at = by_digest[at].parent
    return branch[::-1]
