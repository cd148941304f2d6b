"""Tables of peers, built from presence records alone: the same for a peer, `status` and the demo."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from p2ptrain.run import short, short_peer
from p2ptrain.swarm import Presence
from p2ptrain.units import size


def peers_table(presences: Iterable[Presence], me: str = "", title: str = "") -> Table:
    """One row a peer, in the order of their ids."""
    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    for column in ("peer", "phase", "height", "state", "steps", "tokens/s", "loss", "held-out", "sent", "device"):
        table.add_column(column, justify="right" if column not in ("peer", "phase", "state", "device") else "left")
    rows = sorted(presences, key=lambda seen: seen.author)
    healed = any(seen.taken_back for seen in rows)
    if healed:
        table.add_column("taken back", justify="right")
    for seen in rows:
        name = short_peer(seen.author) + (" (you)" if seen.author == me else "")
        table.add_row(
            name, seen.phase, str(seen.height), short(seen.state), str(seen.steps), f"{seen.tokens_per_second:,.0f}",
            number(seen.loss), f"{number(seen.eval_loss)} @{seen.eval_height}" if seen.eval_height else "–",
            size(seen.bytes_sent), seen.device, *([str(seen.taken_back)] if healed else []),
        )  # fmt: skip
    return table


def peers_lines(presences: Iterable[Presence]) -> list[str]:
    """The same as plain text, for a pipe."""
    return [
        f"{seen.author} phase={seen.phase} height={seen.height} state={short(seen.state)} steps={seen.steps} "
        f"tokens/s={seen.tokens_per_second:.0f} loss={number(seen.loss)} held_out={number(seen.eval_loss)} "
        f"sent={seen.bytes_sent} taken_back={seen.taken_back} version={seen.version} reach={seen.reachability} "
        f"device={seen.device!r}"
        for seen in sorted(presences, key=lambda seen: seen.author)
    ]


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
