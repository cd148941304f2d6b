"""`p2ptrain history`: what a run folder knows of the run so far."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from p2ptrain.commands.log_history import show_logs
from p2ptrain.diloco.audit import archived, branch_of, shares
from p2ptrain.diloco.chain import Commit
from p2ptrain.run import Digest, RunSpec, SPSAMethod, short, short_peer
from p2ptrain.state import HeadSeen, Rollback, RunFolder
from p2ptrain.units import size

ROWS = 20


def history(run_dir: Path, json_lines: bool) -> None:
    """Print the commits of the head's branch, as far as this folder knows them, who contributed, which branches were
    left, and where others were when last heard. Of a one-byte run: who measured how much, marks and cuts.

    Raises:
        StorageError: no run folder.
    """
    with RunFolder.open(run_dir, lock=False) as folder:
        if isinstance(folder.spec.method, SPSAMethod):
            show_logs(folder, json_lines)
            return
        commits = branch_of(folder, folder.ledger.head)
        lost, seen = archived(folder, commits), folder.ledger.commits_seen()
        rollbacks, heads = folder.ledger.rollbacks(), folder.ledger.heads()
    if json_lines:
        facts = [_commit_facts(commit, seen, "commit") for commit in commits]
        facts += [_commit_facts(commit, seen, "archived") for commit in lost]
        facts += [_rollback_facts(past) for past in rollbacks] + [_head_facts(head) for head in heads]
        for fact in facts:
            print(json.dumps(fact))
        return
    console = Console()
    if not commits:
        console.print("no commits yet")
        return
    for table in (_over_time(commits, seen, folder.spec), _contributors(commits, folder.spec)):
        console.print(table)
    if lost:
        tokens = sum(share.tokens for share in shares(lost, folder.spec))
        console.print(f"archived: {len(lost)} commits on branches that lost, {tokens:,} tokens")
    if rollbacks:
        console.print(_rollbacks(rollbacks))
    if heads:
        console.print(_heads(heads))


def _over_time(commits: list[Commit], seen: dict[Digest, int], spec: RunSpec) -> Table:
    table = Table("heights", "first seen", "contributors", "tokens", "steps", "payloads")
    length = -(-len(commits) // ROWS)
    for start in range(0, len(commits), length):
        part = commits[start : start + length]
        found = shares(part, spec)
        table.add_row(
            f"{part[0].height}–{part[-1].height}",
            _when(seen[part[0].digest]),
            str(len(found)),
            f"{sum(s.tokens for s in found):,}",
            f"{sum(s.steps for s in found):,}",
            size(sum(s.bytes for s in found)),
        )
    return table


def _contributors(commits: list[Commit], spec: RunSpec) -> Table:
    table = Table("peer", "contributions", "tokens", "share", "steps", "payloads")
    for s in shares(commits, spec):
        table.add_row(
            short_peer(s.peer), str(s.contributions), f"{s.tokens:,}", f"{s.share:.1%}", f"{s.steps:,}", size(s.bytes)
        )
    return table


def _rollbacks(rollbacks: list[Rollback]) -> Table:
    table = Table("rolled back", "commits", "from", "to", "tokens lost", "of them this peer's")
    for past in rollbacks:
        table.add_row(
            _when(past.seen),
            str(past.commits),
            short(past.old),
            short(past.new),
            f"{past.tokens:,}",
            f"{past.own_tokens:,}",
        )
    return table


def _heads(heads: list[HeadSeen]) -> Table:
    table = Table("peer", "last heard", "height")
    for head in heads[:ROWS]:
        table.add_row(short_peer(head.peer), _when(head.seen), str(head.height))
    return table


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _commit_facts(commit: Commit, seen: dict[Digest, int], event: str) -> dict[str, object]:
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
    return {
        "event": "rollback",
        "seen": past.seen,
        "old": past.old.hex(),
        "new": past.new.hex(),
        "commits": past.commits,
        "tokens": past.tokens,
        "own_tokens": past.own_tokens,
    }


def _head_facts(head: HeadSeen) -> dict[str, object]:
    return {"event": "head", "peer": head.peer, "seen": head.seen, "height": head.height}
