"""Tables of peers, built from presence records alone: the same for a peer, `status` and the demo."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from p2ptrain.run import short, short_peer
from p2ptrain.state.limits import rate_text
from p2ptrain.swarm import Presence
from p2ptrain.units import size


def peers_table(presences: Iterable[Presence], me: str = "", title: str = "") -> Table:
    """One row a peer, in the order of their ids; names, limits and what was taken back if somebody has any."""
    rows = sorted(presences, key=lambda seen: seen.author)
    named, capped = any(seen.name for seen in rows), any(limits_text(seen) for seen in rows)
    healed = any(seen.taken_back for seen in rows)
    columns = [
        "peer", *(["name"] if named else []), "phase", "height", "state", "steps", "tokens/s", "loss", "held-out",
        "sent", *(["limit"] if capped else []), "device", *(["taken back"] if healed else []),
    ]  # fmt: skip
    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    for column in columns:
        table.add_column(column, justify="left" if column in _WORDS else "right")
    for seen in rows:
        cells = [
            short_peer(seen.author) + (" (you)" if seen.author == me else ""), *([seen.name] if named else []),
            seen.phase, str(seen.height), short(seen.state), str(seen.steps), f"{seen.tokens_per_second:,.0f}",
            number(seen.loss), f"{number(seen.eval_loss)} @{seen.eval_height}" if seen.eval_height else "–",
            size(seen.bytes_sent), *([limits_text(seen)] if capped else []), seen.device,
            *([str(seen.taken_back)] if healed else []),
        ]  # fmt: skip
        table.add_row(*map(Text, cells))  # as Text: rich reads a plain string's brackets as markup
    return table


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
