"""A recording as an asciicast of version 2 (https://docs.asciinema.org/manual/asciicast/v2/): all terminals of a story
below each other on one screen, of which each event redraws the rows that have changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.stories.desk import Recording
from tests.stories.frames import Frame, Row, Span, frames

FRAME_SECONDS = 0.2
IDLE_SECONDS = 2.0
"""A player skips what is longer."""


def asciicast(recording: Recording, title: str) -> str:
    """The lines of a .cast file. Each command is a marker, at which players can stop and to which they can jump."""
    header = {
        "version": 2,
        "width": max(take.columns for take in recording.takes),
        "height": len(stacked(first(recording))),
        "title": title,
        "idle_time_limit": IDLE_SECONDS,
        "env": {"SHELL": "bash", "TERM": "xterm-256color"},
    }
    typed = [(at - recording.began, "m", command) for take in recording.takes for at, command in take.typed]
    events = sorted([*drawn(recording), *typed])
    lines = [json.dumps([round(at, 2), kind, data], ensure_ascii=False) for at, kind, data in events]
    return "\n".join([json.dumps(header), *lines]) + "\n"


def drawn(recording: Recording) -> Iterator[tuple[float, str, str]]:
    """Time since the beginning, "o", and what draws the rows that differ from those before."""
    count = int((recording.ended - recording.began) / FRAME_SECONDS) + 2
    times = [number * FRAME_SECONDS for number in range(count)]
    shown: list[Row] = []
    for time, frame in zip(times, frames(recording, (recording.began + time for time in times)), strict=True):
        rows = stacked(frame)
        old = shown or [()] * len(rows)
        changed = [y for y in range(len(rows)) if rows[y] != old[y]]
        if changed:
            begin = "" if shown else "\x1b[?25l"
            yield time, "o", begin + "".join(f"\x1b[{y + 1};1H{styled(rows[y])}\x1b[K" for y in changed)
        shown = rows


def first(recording: Recording) -> Frame:
    return next(frames(recording, [recording.began]))


def stacked(frame: Frame) -> list[Row]:
    """The rows of all terminals, each below its title if there are several."""
    rows: list[Row] = []
    for window in frame:
        if len(frame) > 1:
            rows.append((Span(0, f"── {window.title} ".ljust(window.columns, "─"), False),))
        rows += window.rows
    return rows


def styled(row: Row) -> str:
    return "".join(f"\x1b[1m{span.text}\x1b[0m" if span.bold else span.text for span in row)
