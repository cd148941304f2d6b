"""`p2ptrain verify` and `p2ptrain history`: what a run folder or an export says of itself, checked and counted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from p2ptrain.diloco.audit import Check, audit, branch_of, shares
from p2ptrain.diloco.chain import Commit
from p2ptrain.errors import LedgerError
from p2ptrain.monitor.table import size
from p2ptrain.peer.provenance import FILE, check_export
from p2ptrain.run import NO_DIGEST, Digest, short_peer
from p2ptrain.state import RunFolder

ROWS = 20


def verify(target: Path, base: int | None, json_lines: bool) -> None:
    """Check a run folder or an export, and print each check as it is done.

    Raises:
        StorageError: it is neither.
        LedgerError: something does not hold.
    """
    if (target / FILE).is_file():
        _tell(target, check_export(target), json_lines, "export the run again")
        return
    folder = RunFolder.open(target, lock=False)
    try:
        _tell(target, audit(folder, base), json_lines, "start the peer: it fetches what is missing or damaged")
    finally:
        folder.close()


def _tell(target: Path, checks: Iterable[Check], json_lines: bool, way_out: str) -> None:
    bad = []
    for check in checks:
        if json_lines:
            print(json.dumps({"event": "check", **asdict(check)}), flush=True)
        else:
            print(f"{'ok' if check.good else 'WRONG':<7}{check.subject:<10} {check.found}", flush=True)
        bad += [] if check.good else [check.subject]
    if bad:
        raise LedgerError(
            f"{target} does not agree with itself",
            f"wrong: {', '.join(dict.fromkeys(bad))}",
            way_out,
        )


def history(run_dir: Path, json_lines: bool) -> None:
    """Print the commits of the head's branch, as far as this folder knows them, and who contributed.

    Raises:
        StorageError: no run folder.
    """
    folder = RunFolder.open(run_dir, lock=False)
    try:
        commits = branch_of(folder, Digest(folder.ledger.fact("head") or NO_DIGEST))
    finally:
        folder.close()
    if json_lines:
        for commit in commits:
            print(json.dumps(_facts(commit)))
        return
    console = Console()
    if not commits:
        console.print("no commits yet")
        return
    table = Table("heights", "commits", "contributors", "tokens", "steps", "payloads")
    for part in _in_parts(commits):
        found = shares(part, folder.spec)
        table.add_row(
            f"{part[0].height}–{part[-1].height}", str(len(part)), str(len(found)),
            f"{sum(s.tokens for s in found):,}", f"{sum(s.steps for s in found):,}", size(sum(s.bytes for s in found)),
        )  # fmt: skip
    console.print(table)
    table = Table("peer", "contributions", "tokens", "share", "steps", "payloads")
    for s in shares(commits, folder.spec):
        table.add_row(
            short_peer(s.peer), str(s.contributions), f"{s.tokens:,}", f"{s.share:.1%}", f"{s.steps:,}",
            size(s.bytes),
        )  # fmt: skip
    console.print(table)


def _in_parts(commits: list[Commit]) -> list[list[Commit]]:
    """At most `ROWS` stretches of the same length."""
    length = -(-len(commits) // ROWS)
    return [commits[start : start + length] for start in range(0, len(commits), length)]


def _facts(commit: Commit) -> dict[str, object]:
    return {
        "event": "commit",
        "height": commit.height,
        "commit": commit.digest.hex(),
        "leader": commit.author,
        "attempt": commit.attempt,
        "contributors": [part.author for part in commit.contributions],
        "tokens": [part.tokens for part in commit.contributions],
        "steps": [part.steps for part in commit.contributions],
        "bytes": [part.size for part in commit.contributions],
    }
