"""What a volunteer lets this peer use of disk and network."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

LEAST_RATE = 10_000.0
"""Bytes per second. Heartbeats alone need more than a smaller limit allows."""

_UNITS = {"bit": 1 / 8, "kbit": 1e3 / 8, "mbit": 1e6 / 8, "gbit": 1e9 / 8, "kb": 1e3, "mb": 1e6, "gb": 1e9}


@dataclass(frozen=True, slots=True)
class Limits:
    """The volunteer's limits. None means: no limit."""

    disk: int | None = None
    """Most bytes for the snapshots and contributions of a run."""
    up: float | None = None
    """Most bytes per second that this peer sends, everything included."""
    down: float | None = None
    """Most bytes per second that this peer receives, everything included."""
    archive: bool = False
    """Whether to keep every contribution and the first snapshot, so that the whole run can be replayed."""


NO_LIMITS = Limits()


def bytes_per_second(text: str) -> float:
    """Read a rate with its unit, e.g. 5Mbit, 600kB or 0.6MB. It is per second, and units are powers of 1000.

    Raises:
        ValueError: the text is not a rate, or the rate is too small. The message says what is allowed.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]+)(?:/s)?\s*", text)
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise ValueError(f"{text!r} is no rate: give a number and its unit, per second, e.g. 5Mbit or 600kB")
    rate = float(found[1]) * unit
    if not math.isfinite(rate) or rate < LEAST_RATE:
        raise ValueError(f"{text!r} is less than heartbeats take: at least 80kbit (10kB) per second")
    return rate


def rate_text(rate: float) -> str:
    """Bytes per second as text in bits, e.g. "5 Mbit/s"."""
    bits = rate * 8
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6)):
        if bits >= size:
            return f"{bits / size:.3g} {unit}"
    return f"{bits / 1e3:.3g} kbit/s"
