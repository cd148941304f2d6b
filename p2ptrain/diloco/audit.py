"""Does a run folder agree with itself? Every digest and signature again, and the ledger replayed from a snapshot.

Nothing is believed because it was believed before: states are computed from the snapshot's numbers and the
contributions' bytes, and each commit says on which state it was made. The model itself is not needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.outer import apply_commit
from p2ptrain.diloco.state import Fragment, GlobalState, HashedVector, StateManifest
from p2ptrain.errors import LedgerError, MalformedError, P2PTrainError, StorageError
from p2ptrain.run import NO_DIGEST, Digest, PeerId, RunSpec, digest_of, short
from p2ptrain.state import RunFolder, SnapshotRow


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    subject: str
    good: bool
    found: str
    """In words, what holds or what is wrong."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one peer has contributed to a branch."""

    peer: PeerId
    contributions: int
    tokens: int
    """Capped by the spec, as they count in averages and in the choice between forks."""
    share: float
    """Of everybody's tokens."""
    steps: int
    bytes: int


def branch_of(folder: RunFolder, tip: Digest) -> list[Commit]:
    """The commits that the ledger knows from `tip` downwards, oldest first.

    Raises:
        MalformedError: a record is damaged.
    """
    branch: list[Commit] = []
    while (record := folder.ledger.commit(tip)) is not None:
        branch.append(Commit.decode(record))
        tip = Digest(branch[-1].parent)
    return branch[::-1]


def shares(commits: Sequence[Commit], spec: RunSpec) -> list[Share]:
    """Who contributed how much, most tokens first.

    Every inner step is behind one contribution to each fragment; it counts once here.
    """
    cap, fragments = spec.limits.contribution_tokens, spec.method.fragments
    by_author: dict[str, list[Contribution]] = defaultdict(list)
    for commit in commits:
        for part in commit.contributions:
            by_author[part.author].append(part)
    tokens = {author: sum(min(part.tokens, cap) for part in parts) for author, parts in by_author.items()}
    total = sum(tokens.values())
    found = [
        Share(
            PeerId(author),
            len(parts),
            tokens[author] // fragments,
            tokens[author] / total,
            sum(part.steps for part in parts) // fragments,
            sum(part.size for part in parts),
        )
        for author, parts in by_author.items()
    ]
    return sorted(found, key=lambda share: (-share.tokens, share.peer))


def audit(folder: RunFolder, base: int | None = None) -> Iterator[Check]:
    """Check a folder, one subject after another; genesis and spec were checked when it was opened.

    Args:
        base: height of the snapshot to replay from; the oldest one on the head's branch if None.

    Raises:
        StorageError: there is no snapshot of that height.
    """
    yield Check("genesis", True, f"signed by its founder {folder.genesis.author}, and this is its spec")
    yield _check_commits(folder)
    yield _check_payloads(folder)
    whole: dict[Digest, GlobalState] = {}
    for row in folder.ledger.snapshots():
        try:
            state = _load(folder, row)
            whole[state.commit] = state
            yield Check("snapshot", True, f"height {row.height}, state {short(row.state)}: whole")
        except P2PTrainError as error:
            yield Check("snapshot", False, f"height {row.height}, state {short(row.state)}: {error.what}, {error.why}")
    yield _replay(folder, whole, base)


def _check_commits(folder: RunFolder) -> Check:
    records = folder.ledger.commits(0)
    for digest, record in records.items():
        try:
            commit = Commit.decode(record).check_signatures()
        except MalformedError as error:
            return Check("commits", False, f"{error.what}: {error.why}")
        if commit.run != folder.run:
            return Check("commits", False, f"the commit {short(commit.digest)} belongs to another run")
        if commit.digest != digest:
            return Check("commits", False, f"the commit of height {commit.height} is filed under another digest")
    return Check("commits", True, f"{len(records)}, signed by their leaders and contributors")


def _check_payloads(folder: RunFolder) -> Check:
    digests = folder.ledger.payload_digests()
    bad = [digest for digest in digests if digest_of(folder.ledger.payload(digest) or b"") != digest]
    found = f"{len(bad)} of {len(digests)} are damaged, e.g. {short(bad[0])}" if bad else f"{len(digests)}, all whole"
    return Check("payloads", not bad, found)


def _load(folder: RunFolder, row: SnapshotRow) -> GlobalState:
    """A snapshot, whatever model it is of.

    Raises:
        StorageError: a vector is missing or damaged.
        MalformedError: the manifest is damaged.
    """
    manifest = StateManifest.decode(row.manifest)

    def vector(digest: bytes) -> HashedVector:
        values = folder.vectors.load(Digest(digest))
        if values is None:
            raise StorageError("incomplete", f"the vector {short(Digest(digest))} is missing")
        return HashedVector(values)

    fragments = tuple(Fragment(vector(theta), vector(momentum)) for theta, momentum in manifest.vectors)
    commit, layout = Digest(manifest.commit), Digest(manifest.layout)
    state = GlobalState(manifest.height, commit, manifest.weight, layout, fragments)
    if state.digest != row.state:
        raise StorageError("damaged", "its manifest is filed under another digest")
    return state


def _replay(folder: RunFolder, snapshots: dict[Digest, GlobalState], base: int | None) -> Check:
    branch = branch_of(folder, Digest(folder.ledger.fact("head") or NO_DIGEST))
    below = {NO_DIGEST, *(commit.digest for commit in branch)}
    starts = [state for state in snapshots.values() if state.commit in below and base in (None, state.height)]
    if not starts:
        if base is not None:
            heights = ", ".join(str(state.height) for state in snapshots.values())
            raise StorageError(f"there is no whole snapshot of height {base}", f"there are some of {heights or 'none'}")
        return Check("replay", False, "no whole snapshot lies below the head")
    state = start = min(starts, key=lambda found: found.height)
    if start.height == 0 and start.digest != folder.genesis.base:
        return Check("replay", False, "the snapshot of height 0 is not the one that the genesis names")
    for commit in branch:
        if commit.height <= start.height:
            continue
        payloads: dict[Digest, bytes] = {}
        for part in commit.contributions:
            data = folder.ledger.payload(Digest(part.payload))
            if data is None:
                return Check("replay", False, f"a contribution's bytes for height {commit.height} are missing")
            payloads[Digest(part.payload)] = data
        try:
            state = apply_commit(state, commit, payloads, folder.spec).state
        except LedgerError as error:
            return Check("replay", False, f"{error.what}: {error.why}")
        if commit.digest in snapshots and snapshots[commit.digest].digest != state.digest:
            return Check("replay", False, f"the snapshot of height {commit.height} is not what the commits lead to")
    return Check(
        "replay", True, f"from height {start.height} to the head: height {state.height}, state {state.digest.hex()}"
    )
