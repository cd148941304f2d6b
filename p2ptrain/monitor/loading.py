"""What a peer is about to load, in words: a few rows, as plain lines or as a panel."""

from __future__ import annotations

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from p2ptrain.monitor.events import Loading, Part
from p2ptrain.run import short_peer
from p2ptrain.run.method import METHODS
from p2ptrain.text import printable
from p2ptrain.units import size

PLACES = {
    "hub": "from the hub",
    "cache": "from the hub, already on this machine",
    "folder": "a folder of this machine",
    "files": "files of this machine",
    "here": "needs no download",
}


def loading_lines(event: Loading) -> list[str]:
    """Plain lines, for a pipe."""
    return ["about to load:", *(f"  {label:<10} {text}" for label, text in loading_rows(event))]


def loading_panel(event: Loading) -> Panel:
    """A panel, for a terminal."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in loading_rows(event):
        table.add_row(label, Text(printable(text), style="green" if label == "code" else ""))
    panel = Panel.fit(table, title="about to load", title_align="left", border_style="dim")
    panel.subtitle, panel.subtitle_align = "Ctrl-C: leave", "right"
    return panel


def loading_rows(event: Loading) -> list[tuple[str, str]]:
    """(label, text) of each row."""
    if event.run:
        run = f"{event.run_name} ({event.run[:8]}), founded by {short_peer(event.founder)}"
    else:
        run = f"{event.run_name}, a new run that this peer founds"
    rows = [("run", f"{run}: {event.description}" if event.description else run)]
    reasons = set[str]()  # each reason is shown once: mostly that the hub did not answer
    for label, part in (("model", event.model), ("tokenizer", event.tokenizer), ("data", event.data)):
        if part is None:
            rows.append((label, "the model's own"))
            continue
        counted = _parameters(event) if label == "model" else ""
        rows.append((label, f"{part.what}{counted}; {_origin(part, part.unknown not in reasons)}"))
        reasons.add(part.unknown)
    if event.run:
        state = "size unknown" if event.state_bytes is None else f"at most {size(event.state_bytes)}"
        rows.append(("state", f"the current weights from the run's peers, {state}"))
    method = METHODS[event.method] + (f": {event.sends}" if event.sends else "")
    return [*rows, ("method", method), ("code", event.code)]


def _parameters(event: Loading) -> str:
    if event.parameters is None:
        return ""
    least = "at least " if event.parameters_at_least else ""
    part = "" if event.trained in (None, event.parameters) else f" ({event.trained:,} trained)"
    return f", {least}{event.parameters:,} parameters{part}"


def _origin(part: Part, with_reason: bool) -> str:
    """Where a part comes from, its size and its licence; what of this is unknown, and why."""
    words = ["streamed from the hub" if part.streamed else PLACES[part.place]]
    if part.bytes is not None:
        words.append(("at most " if part.at_most else "") + size(part.bytes) + (" in all" if part.streamed else ""))
    if part.licence:
        words.append(f"licence {part.licence}")
    known = {"size": part.bytes is not None, "licence": part.licence}
    missing = " and ".join(word for word in known if not known[word])
    if part.place in ("files", "here"):
        words.append(part.unknown)
    elif missing:
        words.append(f"{missing} unknown" + (f": {part.unknown}" if part.unknown and with_reason else ""))
    return ", ".join(filter(None, words))
