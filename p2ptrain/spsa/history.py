"""The history of a one-byte run, from a run folder, for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from p2ptrain.method import History, Table
from p2ptrain.run import short_peer
from p2ptrain.spsa.audit import Past
from p2ptrain.spsa.messages import decode_cut
from p2ptrain.spsa.position import total
from p2ptrain.state import RunFolder
from p2ptrain.units import moment

ROWS = 20


def history(folder: RunFolder) -> History:
    """Records over time, each author's records, marks and cuts. See `Method.history`."""
    past = Past(folder)
    times, shares = folder.ledger.logs.arrivals(), past.shares()
    marks, cuts = past.marks(), [decode_cut(data).words for data in past.archive.cuts()]
    facts: list[dict[str, object]] = [{"event": "records", "seen": seen, "records": n} for seen, n in times]
    facts += [{"event": "author", **asdict(share)} for share in shares]
    facts += [{"event": "mark", "number": m.number, "author": m.author, "records": n} for m, n in marks]
    facts += [{"event": "cut", "text": text} for text in cuts]
    if not times:
        return History(facts, ["no records yet"])
    rows = tuple(
        (short_peer(s.peer), str(s.logs), f"{s.records:,}", f"{s.standing:,}", f"{s.share:.1%}") for s in shares
    )
    told = f"{total(past.book.standing()):,} records count; {len(marks)} marks"
    return History(
        facts, [_over_time(times), Table(("peer", "logs", "records", "of them count", "share"), rows), told, *cuts]
    )


def _over_time(times: Sequence[tuple[int, int]]) -> Table:
    """The records that arrived here, by minute, hour, day or the like, in about `ROWS` rows."""
    first, last = times[0][0], times[-1][0]
    step = next((step for step in (60, 600, 3600, 86400) if (last - first) / step < ROWS), 7 * 86400)
    counted, in_all, rows = dict[int, int](), 0, []
    for seen, records in times:
        counted[seen // step] = counted.get(seen // step, 0) + records
    for at, records in sorted(counted.items()):
        in_all += records
        rows.append((moment(at * step), f"{records:,}", f"{in_all:,}"))
    return Table(("arrived here from", "records", "in all"), tuple(rows))
