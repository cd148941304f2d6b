"""What `p2ptrain history` shows of a one-byte run."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime

from rich.console import Console
from rich.table import Table

from p2ptrain.errors import MalformedError
from p2ptrain.run import short_peer
from p2ptrain.spsa.audit import Past
from p2ptrain.spsa.batch import Equivocation, Revocation
from p2ptrain.spsa.position import total
from p2ptrain.state import RunFolder

ROWS = 20


def show_logs(folder: RunFolder, json_lines: bool) -> None:
    """Print records over time, who measured how much, marks and cuts."""
    past = Past(folder)
    times, shares = folder.ledger.logs.arrivals(), past.shares()
    marks, cuts = past.marks(), [_cut_in_words(record) for record in past.archive.cuts()]
    if json_lines:
        facts: list[dict[str, object]] = [{"event": "records", "seen": seen, "records": n} for seen, n in times]
        facts += [{"event": "author", **asdict(share)} for share in shares]
        facts += [{"event": "mark", "number": m.number, "author": m.author, "records": n} for m, n in marks]
        facts += [{"event": "cut", "text": text} for text in cuts]
        for fact in facts:
            print(json.dumps(fact))
        return
    console = Console()
    if not times:
        console.print("no records yet")
        return
    console.print(_over_time(times))
    table = Table("peer", "logs", "records", "of them count", "share")
    for share in shares:
        table.add_row(
            short_peer(share.peer), str(share.logs), f"{share.records:,}", f"{share.standing:,}", f"{share.share:.1%}"
        )
    console.print(table)
    console.print(f"{total(past.book.standing()):,} records count; {len(marks)} marks")
    for text in cuts:
        console.print(text, highlight=False)


def _over_time(times: list[tuple[int, int]]) -> Table:
    """Records that arrived here, by minutes, hours or days, so that there are about as many rows as fit."""
    first, last = times[0][0], times[-1][0]
    step = next((step for step in (60, 600, 3600, 86400) if (last - first) / step < ROWS), 7 * 86400)
    table = Table("arrived here from", "records", "in all")
    counted, in_all = dict[int, int](), 0
    for seen, records in times:
        counted[seen // step] = counted.get(seen // step, 0) + records
    for at, records in sorted(counted.items()):
        in_all += records
        when = datetime.fromtimestamp(at * step).astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(when, f"{records:,}", f"{in_all:,}")
    return table


def _cut_in_words(record: bytes) -> str:
    try:
        order = Revocation.decode(record)
    except MalformedError:
        log, at = Equivocation.decode(record).proven()
        return f"{short_peer(log.author)} contradicted itself: its log {log.session.hex()} ends at record {at:,}"
    kept = sum(count for _, count in order.kept)
    return f"{short_peer(order.revoked)} was revoked by an owner: {kept:,} of its records stay"
