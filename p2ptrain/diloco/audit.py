"""Does a run folder agree with itself? Check every digest and signature again, and replay the ledger from a snapshot.

Nothing counts as checked because it was checked when it arrived. States are computed from a snapshot's numbers and the
contributions' bytes, and each commit names the state that it was made on. The model itself is not needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from p2ptrain.diloco.border import Border
from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.outer import replay
from p2ptrain.diloco.replica import Replica
from p2ptrain.diloco.snapshots import load_state
from p2ptrain.diloco.state import GlobalState
from p2ptrain.errors import LedgerError, MalformedError, P2PTrainError, StorageError
from p2ptrain.run import NO_DIGEST, Digest, PeerId, RunSpec, short
from p2ptrain.state import Blobs, RunFolder
from p2ptrain.state.check import Check


@dataclass(frozen=True, slots=True)
class Share:
    """One peer's work on a branch."""

    peer: PeerId
    contributions: int
    tokens: int
    """As they count in averages and in the choice between forks: up to the spec's cap for each contribution."""
    share: float
    """Between 0 and 1, of all peers' tokens."""
    steps: int
    bytes: int
    """Size of the encoded contributions."""


def branch_of(folder: RunFolder, tip: Digest) -> list[Commit]:
    """The commits from `tip` down to the oldest one that the ledger holds; oldest first. Raises MalformedError if a
    record is damaged."""
    branch: list[Commit] = []
    while (record := folder.ledger.commit(tip)) is not None:
        branch.append(Commit.decode(record))
        tip = branch[-1].parent
    return branch[::-1]


def archived(folder: RunFolder, branch: Sequence[Commit]) -> list[Commit]:
    """Commits that lost a fork: the ledger holds them, from the branch's lowest height on, but the branch does not."""
    if not branch:
        return []
    kept = {commit.digest for commit in branch}
    records = folder.ledger.commits(branch[0].height - 1)
    return [Commit.decode(record) for digest, record in records.items() if digest not in kept]


def shares(commits: Sequence[Commit], spec: RunSpec) -> list[Share]:
    """Who contributed how much; most tokens first.

    Each inner step is part of one contribution to every fragment, so tokens and steps are divided by their number.
    """
    cap, fragments = spec.limits.contribution_tokens, spec.diloco.fragments
    by_author: dict[PeerId, list[Contribution]] = defaultdict(list)
    for commit in commits:
        for part in commit.contributions:
            by_author[part.author].append(part)
    tokens = {author: sum(min(part.tokens, cap) for part in parts) for author, parts in by_author.items()}
    total = sum(tokens.values())
    found = []
    for author, parts in by_author.items():
        counted, steps = tokens[author], sum(part.steps for part in parts) // fragments
        sent = sum(part.size for part in parts)
        found.append(Share(author, len(parts), counted // fragments, counted / total, steps, sent))
    return sorted(found, key=lambda share: (-share.tokens, share.peer))


def audit(folder: RunFolder, base: int | None = None) -> Iterator[Check]:
    """Check a folder, one subject after another. See `Method.audit`.

    Genesis and spec were checked when the folder was opened.
    """
    branch = branch_of(folder, folder.ledger.head)
    yield Check("genesis", True, f"signed by its founder {folder.genesis.author}, and this is its spec")
    whole: dict[Digest, GlobalState] = {}
    snapshots = list(_check_snapshots(folder, whole))
    yield _check_commits(folder, branch, list(whole.values()))
    yield _check_payloads(folder)
    yield from snapshots
    yield _replay(folder, branch, whole, base)


def _check_snapshots(folder: RunFolder, whole: dict[Digest, GlobalState]) -> Iterator[Check]:
    """One check for each snapshot. Those that are whole are added to `whole`, by their commits."""
    for digest in folder.ledger.damaged("snapshots"):
        yield Check("snapshot", False, f"state {short(digest)}: its manifest is damaged")
    for row in folder.ledger.snapshots():
        where = f"height {row.height}, state {short(row.state)}"
        try:
            state = load_state(folder, row, None)
            whole[state.commit] = state
            yield Check("snapshot", True, f"{where}: whole")
        except P2PTrainError as error:
            yield Check("snapshot", False, f"{where}: {error.what}, {error.why}")


def _check_commits(folder: RunFolder, branch: Sequence[Commit], states: Sequence[GlobalState]) -> Check:
    border = Border.around(states[0], folder.run, folder.spec) if states else Border(folder.run, None)
    if bad := folder.ledger.damaged("commits"):
        return Check("commits", False, f"{len(bad)} are damaged, e.g. {short(bad[0])}")
    records = folder.ledger.commits(0)
    for record in records.values():
        try:
            border.check_commit(Commit.decode(record), _anybody)
        except MalformedError as error:
            return Check("commits", False, error.brief)
    lost = len(archived(folder, branch))
    beside = f"; {lost} of them on branches that lost a fork" if lost else ""
    unchecked = "" if states else "; without a whole snapshot, contributions' sizes can't be checked"
    return Check("commits", True, f"{len(records)}, signed by their leaders and contributors{beside}{unchecked}")


def _anybody(_peer: PeerId) -> bool:
    """Who was a member when a commit came is not in the folder."""
    return True


def _check_payloads(folder: RunFolder) -> Check:
    count, bad = len(folder.ledger.payload_digests()), folder.ledger.damaged("payloads")
    found = f"{len(bad)} of {count} are damaged, e.g. {short(bad[0])}" if bad else f"{count}, all whole"
    return Check("payloads", not bad, found)


def _replay(
    folder: RunFolder, branch: Sequence[Commit], snapshots: dict[Digest, GlobalState], base: int | None
) -> Check:
    below = {NO_DIGEST, *(commit.digest for commit in branch)}
    starts = [state for state in snapshots.values() if state.commit in below and base in (None, state.height)]
    if not starts:
        if base is not None:
            heights = ", ".join(str(state.height) for state in snapshots.values())
            why = f"the whole snapshots have these heights: {heights or 'none'}"
            raise StorageError(f"there is no whole snapshot of height {base}", why, "choose one of these heights")
        return Check("replay", False, "no whole snapshot lies below the head")
    start = min(starts, key=lambda found: found.height)
    if start.height == 0 and start.digest != folder.genesis.base:
        return Check("replay", False, "the snapshot of height 0 is not the one that the genesis names")
    try:
        state = _replayed(folder, start, branch, snapshots)
    except LedgerError as error:
        return Check("replay", False, error.brief)
    reached = f"height {state.height}, state {state.digest.hex()}"
    return Check("replay", True, f"from height {start.height} to the head: {reached}")


def _replayed(
    folder: RunFolder, state: GlobalState, branch: Sequence[Commit], snapshots: Mapping[Digest, GlobalState]
) -> GlobalState:
    """The state that the branch's commits above `state` lead to. Snapshots on the way are compared.

    Raises:
        LedgerError: a commit was made on another state, a contribution's bytes are missing, or a snapshot differs.
    """

    def payload(part: Contribution) -> bytes:
        data = folder.ledger.payload(part.payload)
        if data is None:
            raise LedgerError("a commit can't be replayed", f"a payload for height {part.height} is missing")
        return data

    above = [commit for commit in branch if commit.height > state.height]
    for applied in replay(state, above, payload, folder.spec):
        state = applied.state
        if state.commit in snapshots and snapshots[state.commit].digest != state.digest:
            raise LedgerError("a snapshot differs from the commits' state", f"its height is {state.height}")
    return state


def check_against(folder: RunFolder, commit: Digest, state: Digest) -> Check:
    """Check whether a folder's ledger leads to this state at this commit."""
    if commit != NO_DIGEST and folder.ledger.commit(commit) is None:
        return Check("ledger", False, f"{folder.path} does not know the commit {short(commit)}")
    try:
        reached = Replica(folder, None, Blobs()).state_at(commit)
    except LedgerError as error:
        return Check("ledger", False, error.brief)
    good = reached.digest == state
    found_there = f"{folder.path} has state {short(reached.digest)} at height {reached.height}"
    return Check("ledger", good, found_there if good else f"{found_there}, not {short(state)}")
