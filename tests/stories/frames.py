"""What a recording looked like at given times: each terminal's output so far, rendered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyte

from tests.stories.desk import Recording
from tests.stories.terminal import Screen


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of one row that look the same; p2ptrain uses no colours."""

    x: int
    text: str
    bold: bool


Row = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Window:
    title: str
    columns: int
    rows: tuple[Row, ...]
    cursor: tuple[int, int] | None
    """Column and row, while it is shown."""


Frame = tuple[Window, ...]
"""All terminals of a story, in the order in which they were opened."""


def frames(recording: Recording, times: Iterable[float]) -> Iterator[Frame]:
    """One frame for each of the monotonic `times`, which rise."""
    screens = [Screen(take.columns, take.rows) for take in recording.takes]
    streams = [pyte.ByteStream(screen) for screen in screens]
    waiting = [list(reversed(take.output)) for take in recording.takes]
    for time in times:
        for stream, output in zip(streams, waiting, strict=True):
            while output and output[-1].at <= time:
                stream.feed(output.pop().data)
        yield tuple(
            Window(take.title, take.columns, rows_of(screen), cursor_of(screen))
            for take, screen in zip(recording.takes, screens, strict=True)
        )


def rows_of(screen: Screen) -> tuple[Row, ...]:
    return tuple(row_of(screen, y) for y in range(screen.lines))


def row_of(screen: Screen, y: int) -> Row:
    """Its spans, without the blanks at the end."""
    spans: list[Span] = []
    for x in range(screen.columns):
        cell = screen.buffer[y][x]
        if spans and spans[-1].bold == cell.bold:
            spans[-1] = Span(spans[-1].x, spans[-1].text + cell.data, cell.bold)
        else:
            spans.append(Span(x, cell.data, cell.bold))
    while spans and not spans[-1].text.rstrip():
        spans.pop()
    return (*spans[:-1], *(Span(last.x, last.text.rstrip(), last.bold) for last in spans[-1:]))


def cursor_of(screen: Screen) -> tuple[int, int] | None:
    return None if screen.cursor.hidden else (min(screen.cursor.x, screen.columns - 1), screen.cursor.y)
