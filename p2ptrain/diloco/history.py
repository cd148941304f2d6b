"""What a run folder knows about a run's commits, for people and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from p2ptrain.diloco.audit import archived, branch_of, shares
from p2ptrain.diloco.chain import Commit
from p2ptrain.method import History, Table
from p2ptrain.run import Digest, RunSpec, short, short_peer
from p2ptrain.state import HeadSeen, Rollback, RunFolder
from p2ptrain.units import moment, size

ROWS = 20


def history(folder: RunFolder) -> History:
    """The commits of the head's branch, its contributors, the commits that lost a fork, the rollbacks, and the last
    known heights of other peers."""
    commits = branch_of(folder, folder.ledger.head)
    lost, seen = archived(folder, commits), folder.ledger.commits_seen()
    rollbacks, heads = folder.ledger.rollbacks(), folder.ledger.heads()
    facts = [_commit_facts(commit, seen, "commit") for commit in commits]
    facts += [_commit_facts(commit, seen, "archived") for commit in lost]
    facts += [*map(_rollback_facts, rollbacks), *map(_head_facts, heads)]
    if not commits:
        return History(facts, ["no commits yet"])
    shown: list[Table | str] = [_over_time(commits, seen, folder.spec), _contributors(commits, folder.spec)]
    if lost:
        tokens = sum(share.tokens for share in shares(lost, folder.spec))
        shown.append(f"archived: {len(lost)} commits on branches that lost, {tokens:,} tokens")
    if rollbacks:
        shown.append(_rollbacks(rollbacks))
    if heads:
        rows = tuple((short_peer(head.peer), moment(head.seen), str(head.height)) for head in heads[:ROWS])
        shown.append(Table(("peer", "last heard", "height"), rows))
    return History(facts, shown)


def _over_time(commits: Sequence[Commit], seen: Mapping[Digest, int], spec: RunSpec) -> Table:
    length, rows = -(-len(commits) // ROWS), []
    for start in range(0, len(commits), length):
        part = commits[start : start + length]
        found = shares(part, spec)
        tokens, steps = sum(s.tokens for s in found), sum(s.steps for s in found)
        when = f"{part[0].height}–{part[-1].height}", moment(seen[part[0].digest])
        sent = size(sum(s.bytes for s in found))
        rows.append((*when, str(len(found)), f"{tokens:,}", f"{steps:,}", sent))
    return Table(("heights", "first seen", "contributors", "tokens", "steps", "payloads"), tuple(rows))


def _contributors(commits: Sequence[Commit], spec: RunSpec) -> Table:
    rows = tuple(
        (short_peer(s.peer), str(s.contributions), f"{s.tokens:,}", f"{s.share:.1%}", f"{s.steps:,}", size(s.bytes))
        for s in shares(commits, spec)
    )
    return Table(("peer", "contributions", "tokens", "share", "steps", "payloads"), rows)


def _rollbacks(rollbacks: Sequence[Rollback]) -> Table:
    rows = []
    for past in rollbacks:
        lost = f"{past.tokens:,}", f"{past.own_tokens:,}"
        rows.append((moment(past.seen), str(past.commits), short(past.old), short(past.new), *lost))
    return Table(("rolled back", "commits", "from", "to", "tokens lost", "of them this peer's"), tuple(rows))


def _commit_facts(commit: Commit, seen: Mapping[Digest, int], event: str) -> dict[str, object]:
    return {
        "event": event,
        "height": commit.height,
        "commit": commit.digest.hex(),
        "seen": seen[commit.digest],
        "leader": commit.author,
        "attempt": commit.attempt,
        "contributors": [part.author for part in commit.contributions],
        "tokens": [part.tokens for part in commit.contributions],
        "steps": [part.steps for part in commit.contributions],
        "bytes": [part.size for part in commit.contributions],
    }


def _rollback_facts(past: Rollback) -> dict[str, object]:
    branches = {"old": past.old.hex(), "new": past.new.hex()}
    return {"event": "rollback", "seen": past.seen, **asdict(past), **branches}


def _head_facts(head: HeadSeen) -> dict[str, object]:
    return {"event": "head", "peer": head.peer, "seen": head.seen, "height": head.height}
