"""A curve as a small SVG file, readable on light and dark pages; nothing to install."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 56, 56, 34, 40


def draw(path: Path, title: str, across: str, series: dict[str, Sequence[tuple[float, float]]]) -> None:
    """Write one or two series of points over a common axis, the first read on the left, the second on the right."""
    last = max(x for points in series.values() for x, _ in points) or 1.0
    colours = ("#c0392b", "#2471a3")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="13">{title}</text>',
    ]
    for side, (name, points) in enumerate(series.items()):
        lines += _one(name, points, last, colours[side], right=side == 1)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        lines.append(f'<text x="{_x(share):.0f}" y="{HEIGHT - 22}" text-anchor="middle">{share * last:,.0f}</text>')
    lines += [f'<text x="{_x(0.5):.0f}" y="{HEIGHT - 6}" text-anchor="middle">{across}</text>', "</svg>"]
    path.write_text("\n".join(lines) + "\n")


def _one(name: str, points: Sequence[tuple[float, float]], last: float, colour: str, right: bool) -> list[str]:
    low, high = min(y for _, y in points), max(y for _, y in points)
    spread = (high - low) or 1.0
    path = " ".join(f"{_x(x / last):.1f},{_y((y - low) / spread):.1f}" for x, y in points)
    edge, anchor, place = (WIDTH - RIGHT + 6, "start", WIDTH - RIGHT) if right else (LEFT - 6, "end", LEFT)
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(
            f'<text x="{edge}" y="{_y(share) + 4:.0f}" text-anchor="{anchor}" fill="{colour}">'
            f"{low + share * spread:.3f}</text>"
            for share in (0.0, 0.5, 1.0)
        ),
        f'<text x="{place}" y="{TOP - 2}" text-anchor="{"end" if right else "start"}" fill="{colour}">{name}</text>',
    ]


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
