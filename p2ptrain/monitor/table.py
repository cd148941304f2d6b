"""Tables of peers, made from presence records only: a peer, `status` and the demo show the same table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from p2ptrain.run import short, short_peer
from p2ptrain.state.limits import rate_text
from p2ptrain.swarm import Presence
from p2ptrain.units import counted, size


def peers_table(
    presences: Iterable[Presence], me: str = "", title: str = "", width: int = 160, most: int | None = None
) -> Table:
    """A table with one row per peer, in the order of their ids. Rare columns are shown only if a peer fills them.

    Args:
        me: id of this peer, which comes first if not all peers fit.
        width: of the terminal, in characters; if the table is too wide, the least important columns are left out.
        most: rows; a line below the table counts the peers that do not fit.
    """
    rows = sorted(presences, key=lambda seen: seen.author)
    more = 0 if most is None else max(0, len(rows) - most)
    if more:
        rows = sorted(rows, key=lambda seen: seen.author != me)[:most]
    cells = {column: [cell(seen) for seen in rows] for column, cell in _CELLS.items()}
    cells["peer"] = [short_peer(seen.author) + (" (you)" if seen.author == me else "") for seen in rows]
    columns = [column for column in cells if column not in _RARE or any(cells[column])]
    for column in _LEAST_FIRST:
        if sum(max(map(cell_len, (name, *cells[name]))) + 3 for name in columns) + 1 <= width:
            break
        columns = [name for name in columns if name != column]
    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    for column in columns:
        table.add_column(column, justify="left" if column in _WORDS else "right")
    for row in zip(*(cells[column] for column in columns), strict=True):
        table.add_row(*map(Text, row))  # as Text: rich reads a plain string's brackets as markup
    if more:
        table.caption, table.caption_justify = f"and {counted(more, 'other peer')}", "left"
    return table


_CELLS: dict[str, Callable[[Presence], str]] = {
    "peer": lambda seen: short_peer(seen.author),
    "name": lambda seen: seen.name,
    "phase": lambda seen: seen.phase,
    "height": lambda seen: str(seen.height),
    "state": lambda seen: short(seen.state),
    "steps": lambda seen: str(seen.steps),
    "tokens/s": lambda seen: f"{seen.tokens_per_second:,.0f}",
    "loss": lambda seen: number(seen.loss),
    "held-out": lambda seen: f"{number(seen.eval_loss)} @{seen.eval_height}" if seen.eval_height else "–",
    "sent": lambda seen: size(seen.bytes_sent).rjust(8),  # always of the same width: columns do not move
    "limit": lambda seen: limits_text(seen),
    "device": lambda seen: seen.device,
    "taken back": lambda seen: str(seen.taken_back or ""),
}
_RARE = ("name", "limit", "taken back")
"""Columns that are shown only if a peer fills them."""
_LEAST_FIRST = ("device", "sent", "limit", "state", "taken back", "held-out", "tokens/s", "name", "steps", "loss")
_WORDS = ("peer", "name", "phase", "state", "limit", "device")


def peers_lines(presences: Iterable[Presence]) -> list[str]:
    """The same as plain lines, for a pipe."""
    return [
        f"{seen.author} name={seen.name!r} phase={seen.phase} height={seen.height} state={short(seen.state)} "
        f"steps={seen.steps} tokens/s={seen.tokens_per_second:.0f} loss={number(seen.loss)} "
        f"held_out={number(seen.eval_loss)} sent={seen.bytes_sent} "
        f"limit={limits_text(seen).replace(' ', '') or 'none'} taken_back={seen.taken_back} version={seen.version} "
        f"reach={seen.reachability} device={seen.device!r}"
        for seen in sorted(presences, key=lambda seen: seen.author)
    ]


def limits_text(seen: Presence) -> str:
    """How fast its volunteer lets it send and receive; empty if there is no limit."""
    shown = [f"↑ {rate_text(seen.max_up)}"] if seen.max_up else []
    return " ".join([*shown, f"↓ {rate_text(seen.max_down)}"] if seen.max_down else shown)


def finite(value: Any) -> Any:
    """A value for JSON, which has no word for NaN and infinity: None stands for them."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
