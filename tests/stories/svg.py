"""A recording as one moving picture: the terminals of a story below each other, at some moments one after another.

What is the same in several moments is drawn once: each row of each terminal is an element, and elements that are seen
in the same moments share one CSS animation. Programs that know no animation show the last moment, and so does a browser
whose user wants things to keep still. Lines of tables are drawn as lines: no font has to have them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from tests.stories.desk import Moment, Recording
from tests.stories.frames import Frame, Row, Window, frames

TYPED_SECONDS = 1.5
"""For which a command is seen before Enter."""
CELL_WIDTH, CELL_HEIGHT, FONT_SIZE = 8.4, 18, 14
PADDING, BAR, GAP = 12, 30, 12
NO_MOTION = "@media (prefers-reduced-motion){g{animation:none!important}}"
STYLE = """\
.window{fill:#0d1117;stroke:#3d444d}
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;fill:#d1d7e0}
.bold{font-weight:700;fill:#fff}
.title{font-family:system-ui,sans-serif;fill:#9198a1;text-anchor:middle}
.light,.heavy{stroke:#9198a1;fill:none}
.heavy{stroke-width:2.4}
.cursor{fill:#d1d7e0}
"""
ARMS = {
    "─": "lr",
    "━": "LR",
    "│": "ud",
    "┃": "UD",
    "┏": "RD",
    "┓": "LD",
    "┳": "LRD",
    "┡": "URd",
    "┩": "ULd",
    "╇": "LURd",
    "├": "udr",
    "┤": "udl",
    "┼": "lrud",
    "┬": "lrd",
    "┴": "lru",
    "└": "ur",
    "┘": "ul",
}
"""Where a box-drawing character's lines go from its middle: left, right, up, down; capitals are heavy."""


def moving_picture(recording: Recording, title: str) -> str:
    """An SVG with the recording's moments and, before each, the command as it was typed."""
    typed = [Moment(at, TYPED_SECONDS) for take in recording.takes for at, _ in take.typed]
    moments = sorted([*recording.moments, *typed], key=lambda moment: moment.at)
    pictures = list(frames(recording, (moment.at for moment in moments)))
    seen = when_seen(pictures)
    groups: dict[frozenset[int], list[str]] = defaultdict(list)
    for element, where in seen.items():
        groups[frozenset(where)].append(element)
    rules, drawn = [], []
    for number, (where, elements) in enumerate(sorted(groups.items(), key=lambda item: sorted(item[0]))):
        name = f"m{number}"
        drawn.append(f'<g class="{name}">' + "\n".join(elements) + "</g>")
        rules.append(rule(name, where, [moment.seconds for moment in moments]))
    width, height = size_of(pictures[0])
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}{''.join(rules)}{NO_MOTION}\n</style>",
            *chrome(pictures[0]),
            *drawn,
            "</svg>\n",
        ]
    )


def when_seen(pictures: Sequence[Frame]) -> dict[str, list[int]]:
    """For each element in which of the pictures it is, in the order of its first appearance."""
    seen: dict[str, list[int]] = defaultdict(list)
    for number, frame in enumerate(pictures):
        for element in elements(frame):
            seen[element].append(number)
    return seen


def rule(name: str, where: frozenset[int], seconds: Sequence[float]) -> str:
    """CSS that shows a group in these moments of a loop that never ends; without animation, in the last one."""
    whole = sum(seconds)
    flips = [
        f"{100 * sum(seconds[:number]) / whole:.2f}%{{visibility:{'visible' if number in where else 'hidden'}}}"
        for number in range(len(seconds))
        if number == 0 or (number in where) != (number - 1 in where)
    ]
    if len(flips) == 1:
        return ""  # always there
    still = "" if len(seconds) - 1 in where else "visibility:hidden;"
    return f".{name}{{{still}animation:{name} {whole:g}s step-end infinite}}@keyframes {name}{{{''.join(flips)}}}\n"


# One moment ----------------------------------------------------------------------------------------------------------


def places(frame: Frame) -> Iterator[tuple[Window, float]]:
    """Each window with the top of its frame."""
    top = 0.5
    for window in frame:
        yield window, top
        top += outer_height(window) + GAP


def outer_height(window: Window) -> float:
    return BAR + len(window.rows) * CELL_HEIGHT + PADDING


def outer_width(window: Window) -> float:
    return window.columns * CELL_WIDTH + 2 * PADDING


def size_of(frame: Frame) -> tuple[float, float]:
    return max(map(outer_width, frame)) + 1, sum(map(outer_height, frame)) + GAP * (len(frame) - 1) + 1


def chrome(frame: Frame) -> Iterator[str]:
    """What is around the terminals."""
    for window, top in places(frame):
        width = outer_width(window)
        yield f'<rect class="window" x=".5" y="{top:g}" width="{width:g}" height="{outer_height(window):g}" rx="8"/>'
        yield f'<text class="title" x="{width / 2:g}" y="{top + 20:g}">{escape(window.title)}</text>'


def elements(frame: Frame) -> Iterator[str]:
    """What is in the terminals, a row at a time."""
    for window, top in places(frame):
        for y, row in enumerate(window.rows):
            above = top + BAR + y * CELL_HEIGHT
            if drawn := "".join([*words(row, above), *box_lines(row, above)]):
                yield drawn
        if window.cursor is not None:
            x, y = window.cursor
            left, above = PADDING + x * CELL_WIDTH, top + BAR + y * CELL_HEIGHT
            yield f'<rect class="cursor" x="{left:g}" y="{above:g}" width="{CELL_WIDTH}" height="{CELL_HEIGHT}"/>'


def words(row: Row, above: float) -> Iterator[str]:
    """Text, each group of words at its place and as wide as it has to be, whatever font there is."""
    boxes = "".join(ARMS)
    for span in row:
        for found in re.finditer(rf"[^\s{boxes}]+(?: [^\s{boxes}]+)*", span.text):
            left, text = PADDING + (span.x + found.start()) * CELL_WIDTH, found[0]
            style = ' class="bold"' if span.bold else ""
            yield (
                f'<text{style} x="{left:g}" y="{above + 13:g}" textLength="{len(text) * CELL_WIDTH:g}" '
                f'lengthAdjust="spacingAndGlyphs">{escape(text, quote=False)}</text>'
            )


def box_lines(row: Row, above: float) -> Iterator[str]:
    """The lines of a table's row, light and heavy ones."""
    for kind, arms in (("light", "lrud"), ("heavy", "LRUD")):
        if path := "".join([*across(row, above, arms[:2]), *upright(row, above, arms[2:])]):
            yield f'<path class="{kind}" d="{path}"/>'


def across(row: Row, above: float, arms: str) -> Iterator[str]:
    """Horizontal lines, in one piece where they go on."""
    middle = above + CELL_HEIGHT / 2
    halves = [2 * x + half for x, text in cells(row) for half in (0, 1) if arms[half] in ARMS.get(text, "")]
    for begin, end in stretches(halves):
        yield f"M{PADDING + begin * CELL_WIDTH / 2:g} {middle:g}H{PADDING + end * CELL_WIDTH / 2:g}"


def upright(row: Row, above: float, arms: str) -> Iterator[str]:
    for x, text in cells(row):
        for begin, end in stretches([half for half in (0, 1) if arms[half] in ARMS.get(text, "")]):
            left = PADDING + (x + 0.5) * CELL_WIDTH
            yield f"M{left:g} {above + begin * CELL_HEIGHT / 2:g}V{above + end * CELL_HEIGHT / 2:g}"


def cells(row: Row) -> Iterator[tuple[int, str]]:
    for span in row:
        yield from enumerate(span.text, span.x)


def stretches(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Where consecutive numbers begin, and the first number after them."""
    begin = end = -1
    for number in numbers:
        if number != end:
            if end > begin:
                yield begin, end
            begin = number
        end = number + 1
    if end > begin:
        yield begin, end
