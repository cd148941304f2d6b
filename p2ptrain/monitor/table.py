"""Tables of peers, built from presence records alone: the same for a peer, `status` and the demo."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
    """One row a peer, in the order of their ids; names, limits and what was taken back if somebody has any.

    Args:
        me: this peer, which comes first if there are too many.
        width: of the terminal, in characters; a table that is too wide loses the columns that matter least.
        most: rows, if there are more peers; the rest is counted below.
    """
    rows = sorted(presences, key=lambda seen: seen.author)
    more = 0 if most is None else max(0, len(rows) - most)
    if more:
        rows = sorted(rows, key=lambda seen: seen.author != me)[:most]
    cells = {column: [cell(seen) for seen in rows] for column, cell in _CELLS.items()}
    cells["peer"] = [
        name + (" (you)" if seen.author == me else "") for name, seen in zip(cells["peer"], rows, strict=True)
    ]
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
    "sent": lambda seen: size(seen.bytes_sent).rjust(8),  # as wide as it may get: the columns stay where they are
    "limit": lambda seen: limits_text(seen),
    "device": lambda seen: seen.device,
    "taken back": lambda seen: str(seen.taken_back or ""),
}
_RARE = ("name", "limit", "taken back")
"""Shown if they say something."""
_LEAST_FIRST = ("device", "sent", "limit", "state", "taken back", "held-out", "tokens/s", "name", "steps", "loss")
_WORDS = ("peer", "name", "phase", "state", "limit", "device")


def peers_lines(presences: Iterable[Presence]) -> list[str]:
    """The same as plain text, for a pipe."""
    return [
        f"{seen.author} name={seen.name!r} phase={seen.phase} height={seen.height} state={short(seen.state)} "
        f"steps={seen.steps} tokens/s={seen.tokens_per_second:.0f} loss={number(seen.loss)} "
        f"held_out={number(seen.eval_loss)} sent={seen.bytes_sent} "
        f"limit={limits_text(seen).replace(' ', '') or 'none'} taken_back={seen.taken_back} version={seen.version} "
        f"reach={seen.reachability} device={seen.device!r}"
        for seen in sorted(presences, key=lambda seen: seen.author)
    ]


def limits_text(seen: Presence) -> str:
    """What its volunteer allows it to send and to receive; nothing if that is unlimited."""
    shown = [f"↑ {rate_text(seen.max_up)}"] if seen.max_up else []
    return " ".join([*shown, f"↓ {rate_text(seen.max_down)}"] if seen.max_down else shown)


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
