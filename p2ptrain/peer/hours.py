"""`--hours`: the hours of the day in which a peer may train, e.g. 22-07 or 22:30-7,12-13. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

DAY = 24 * 60
_RANGE = re.compile(r"(\d{1,2})(?::(\d\d))?-(\d{1,2})(?::(\d\d))?")


@dataclass(frozen=True, slots=True)
class Hours:
    """Ranges of this machine's local time. If a range ends before it starts, it goes past midnight."""

    ranges: tuple[tuple[int, int], ...]
    """(first minute, minute after the last), counted from midnight."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read FROM-TO, or several such ranges with commas between them. Raises a ValueError that says what is
        wrong."""
        return cls(tuple(_range(part.strip()) for part in text.split(",")))

    def allow(self, now: datetime) -> bool:
        """Whether the peer may train at this local time."""
        minute = now.hour * 60 + now.minute
        return any((minute - start) % DAY < ((stop - start) % DAY or DAY) for start, stop in self.ranges)

    def next_start(self, now: datetime) -> datetime:
        """The next local time at which the peer may train. Call it only while the peer may not train."""
        minute = now.hour * 60 + now.minute
        ahead = min((start - minute) % DAY for start, _ in self.ranges)
        return now.replace(second=0, microsecond=0) + timedelta(minutes=ahead)


def _range(text: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(text)
    if found is None:
        step = "write FROM-TO, e.g. 22-07, with commas between several ranges"
        raise ValueError(f"{text!r} is no range of hours: {step}")
    start, stop = (_minute(*found.group(at, at + 1)) for at in (1, 3))
    if start == stop:
        raise ValueError(f"{text!r} is empty: it ends when it begins; to train all day, leave the hours out")
    return start % DAY, stop


def _minute(hour: str, minute: str | None) -> int:
    whole = int(hour) * 60 + int(minute or 0)
    if whole > DAY or int(minute or 0) > 59:
        raise ValueError(f"{hour}:{minute or '00'} is no time of day: times go from 0:00 to 24:00")
    return whole
