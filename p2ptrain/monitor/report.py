"""Three ways to show events: a live table, plain lines, JSON lines."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from p2ptrain.monitor import events
from p2ptrain.monitor.loading import loading_lines, loading_panel
from p2ptrain.monitor.table import finite, number, peers_table
from p2ptrain.run import short_peer
from p2ptrain.swarm import Presence
from p2ptrain.text import printable
from p2ptrain.units import counted, duration, size

Peers = Callable[[], Iterable[Presence]]
AROUND_ROWS = 8
"""Lines of the live display that show no peer: the table's head and foot, the lines below it, and one free line."""


class Reporter(Protocol):
    """Shows events."""

    def emit(self, event: events.Event) -> None: ...

    def watch(self, me: str, peers: Peers) -> None:
        """Give the reporter a table of peers: `peers` returns them all, `me` is this peer's id."""

    def close(self) -> None: ...


class _LineReporter:
    """Writes lines, and shows no table."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def _print(self, line: str) -> None:
        print(line, file=self._out, flush=True)

    def watch(self, me: str, peers: Peers) -> None:
        pass

    def close(self) -> None:
        pass


class JsonReporter(_LineReporter):
    """One JSON object per line on standard output."""

    def emit(self, event: events.Event) -> None:
        fields = {key: finite(value) for key, value in asdict(event).items()}
        self._print(json.dumps({"event": event.name, **fields}))


class PlainReporter(_LineReporter):
    """One line for each event; progress of any kind every ten seconds only."""

    def __init__(self, out: TextIO | None = None) -> None:
        super().__init__(out)
        self._last: dict[type[events.Event], float] = {}

    def emit(self, event: events.Event) -> None:
        if isinstance(event, events.Progress | events.Fetching | events.Replaying):
            is_last = isinstance(event, events.Fetching) and event.bytes_here == event.bytes_total
            if not is_last and event.seconds - self._last.get(type(event), -10.0) < 10:
                return
            self._last[type(event)] = event.seconds
        for line in describe(event):
            self._print(printable(line))


class LiveReporter:
    """For a terminal: important lines scroll, and the table of peers stays below them."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._me = ""
        self._peers: Peers = list
        self._fetching: events.Fetching | None = None
        self._progress: events.Progress | None = None
        self._evaluation: events.Evaluated | None = None

    def emit(self, event: events.Event) -> None:
        if isinstance(event, events.Progress):
            self._progress = event
            return
        if isinstance(event, events.Fetching) and event.bytes_here < event.bytes_total:
            self._fetching = event
            self._start()
            return
        self._fetching = None
        if isinstance(event, events.Evaluated):
            self._evaluation = event
        if isinstance(event, events.Committed | events.Marked | events.Evaluated):
            return  # the table shows where everyone is
        if isinstance(event, events.Left | events.Stopped):
            self.close()
        if isinstance(event, events.Loading):
            self._console.print(loading_panel(event))
            return
        for line in describe(event):
            # The terminal wraps the lines that people copy: a line that rich breaks would be copied in pieces.
            is_copied = line.startswith(("  p2ptrain ", "folder "))
            self._console.print(printable(line), highlight=False, soft_wrap=is_copied, markup=False)

    def watch(self, me: str, peers: Peers) -> None:
        self._me, self._peers = me, peers
        self._start()

    def _start(self) -> None:
        if self._live is None:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True)
            self._live.start()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> RenderableType:
        if self._fetching is not None:
            return Text(describe(self._fetching)[0])
        most = max(1, self._console.height - AROUND_ROWS)
        table = peers_table(self._peers(), self._me, width=self._console.width, most=most)
        if (now := self._progress) is None:
            return table
        line = f"step {now.steps}  loss {number(now.loss)}  lr {now.learning_rate:.1e}"
        if (shown := self._evaluation) is not None:
            accuracy = "" if shown.accuracy is None else f" ({shown.accuracy:.1%})"
            line += f"  held-out {shown.loss:.3f}{accuracy} at height {shown.height}"
        return Group(table, Text(line), Text("Ctrl-C: save and leave", "dim"))


def describe(event: events.Event) -> list[str]:
    """An event in words: its lines."""
    match event:
        case events.Preparing():
            return [event.text]
        case events.Loading():
            return loading_lines(event)
        case events.DataRead():
            first = "" if event.whole else "the stream's first "
            return [
                f"data: {first}{counted(event.rows, 'row')} read, {event.used:,} used",
                *(f"  {line}" for line in event.told),
            ]
        case events.Fetching():
            rest = event.bytes_total - event.bytes_here
            pace = f", {size(event.rate)}/s, {duration(rest / event.rate)} left" if event.rate else ""
            return [f"fetching the state: {size(event.bytes_here)} of {size(event.bytes_total)}{pace}"]
        case events.Started():
            return _first_words(event)
        case events.Training():
            others = counted(event.peers, "other peer")
            return [f"training from height {event.height} ({event.state[:8]}) with {others}"]
        case events.Progress():
            where = f"step {event.steps} height {event.height} loss {number(event.loss)} lr {event.learning_rate:.2e}"
            pace = f"{event.tokens_per_second:,.0f} tokens/s"
            return [f"{where} {pace} peers {event.peers} sent {size(event.bytes_sent)}"]
        case events.Committed():
            who = " ".join(short_peer(peer) for peer in event.contributors) or "nobody"
            return [f"height {event.height} commit {event.commit[:8]} state {event.state[:8]} from {who}"]
        case events.RolledBack():
            branches = f"branch {event.new[:8]} is heavier than branch {event.old[:8]}"
            lost = f"{event.tokens:,} tokens no longer count, {event.own_tokens:,} of them from this peer"
            return [f"{event.commits} commits taken back: {branches}; {lost}"]
        case events.Evaluated():
            accuracy = "" if event.accuracy is None else f", accuracy {event.accuracy:.3f}"
            return [f"held-out loss {event.loss:.4f}{accuracy} at height {event.height}"]
        case events.Replaying():
            left = event.seconds * (event.records_total / event.records_done - 1) if event.records_done else 0.0
            return [f"applying records: {event.records_done:,} of {event.records_total:,}, {duration(left)} left"]
        case events.Marked():
            return [f"mark {event.number}: {event.records:,} records, state {event.state[:8]}"]
        case events.Paused():
            until = "" if event.until is None else event.until.replace("T", " ")
            return [f"paused until {until}: {event.reason}" if until else f"paused while {event.reason}"]
        case events.WentOn():
            return [f"training again after a pause of {duration(event.seconds)}"]
        case events.Warned():
            return [f"warning: {event.text}"]
        case events.Left():
            if not event.resume:
                return ["left before there was a run here: nothing was lost"]
            return ["left before training began: nothing was lost", *_go_on_with(event)]
        case events.Stopped():
            return _last_words(event)
    raise TypeError(f"no words for {type(event).__name__}")


def _first_words(event: events.Started) -> list[str]:
    run = f"run {event.run_name} ({event.run[:8]}), peer {short_peer(event.peer)} on {event.device}"
    lines = [f"{run}, {event.parameters:,} parameters", f"folder {for_shell(event.folder)}"]
    if event.invite_with:
        return [*lines, "a private run; invite others with:", f"  {event.invite_with} --label NAME"]
    if not event.invite:
        return [*lines, "a private run: its owner invites others"]
    return [*lines, "others join with:", f"  p2ptrain join {event.invite}"]


def _last_words(event: events.Stopped) -> list[str]:
    done = f"{event.steps} steps in {event.seconds:.0f} s"
    lines = [f"{event.reason}: height {event.height}, state {event.state[:8]}, {done}"]
    lines.append("sent " + ", ".join(f"{size(count)} {what}" for what, count in event.sent.items()))
    if event.refused:
        lines.append("not used: " + ", ".join(f"{count} × {why}" for why, count in event.refused.items()))
    return [*lines, *_go_on_with(event)] if event.resume else lines


def _go_on_with(event: events.Left | events.Stopped) -> list[str]:
    return ["go on with:", f"  {event.resume.replace(shlex.quote(event.folder), for_shell(event.folder), 1)}"]


def for_shell(path: str) -> str:
    """A path as people type it in a shell: ~ for the home folder, and quotes where they are needed."""
    try:
        return f"~/{shlex.quote(str(Path(path).relative_to(Path.home())))}"
    except (ValueError, RuntimeError):  # not in the home folder, or there is none
        return shlex.quote(path)


def make_reporter(json_lines: bool) -> Reporter:
    """The reporter for standard output: JSON lines if asked for, a live table on a terminal, else plain lines."""
    if json_lines:
        return JsonReporter()
    return LiveReporter() if sys.stdout.isatty() else PlainReporter()
