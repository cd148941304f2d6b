"""Quantities, written for people."""

from __future__ import annotations

from datetime import datetime


def size(count: float) -> str:
    """A number of bytes with its unit, in powers of 1000: 12 B, 3.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """A number of seconds in up to two units: 40 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def age(seconds: float) -> str:
    """A number of seconds in one unit: 40 s, 3 min, 47 h, 2 days."""
    whole = round(seconds)
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if whole >= (2 if unit == "days" else 1) * length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def counted(count: int, thing: str) -> str:
    """A number of things: 1 peer, 2 peers, 1,000 peers."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def moment(seconds: float) -> str:
    """Seconds since 1970 as a local date and time: 2026-11-21 18:30."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
