"""How many rows were read, and how many can't be used and why: counted, told, and refused if they are too many."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from p2ptrain.data.cells import Cells, Fault
from p2ptrain.errors import DataError
from p2ptrain.units import counted

MOST_REPLACED = 0.001
"""Largest share of the characters that may be replaced because their bytes are no UTF-8."""
ENOUGH_ROWS, ENOUGH_CHARACTERS = 1000, 100_000
"""A stream is judged when so much of it was read; a table when it was read to its end."""


@dataclass(slots=True)
class Tally:
    """Counts of one reading. `most` is the largest share of rows that may be left out."""

    most: float
    rows: int = 0
    is_whole: bool = False
    """Whether everything was read; else only a stream's beginning."""
    used: int = 0
    left_out: Counter[Fault] = field(default_factory=Counter)
    first: dict[Fault, str] = field(default_factory=dict)
    """Where each fault was first met, e.g. "rows.csv, row 7"."""
    empty: int = 0
    """Rows whose document has no characters. Nothing is lost with them."""
    characters: int = 0
    replaced: int = 0
    replaced_first: str = ""
    notes: list[str] = field(default_factory=list)
    """What else the volunteer should know, e.g. files that were passed over."""

    def use(self, row: Cells) -> None:
        """Count one row that can be used."""
        self.rows += 1
        self.used += 1
        self.empty += not any(row.values())

    def leave_out(self, fault: Fault, where: str) -> None:
        """Count one row that can't be used."""
        self.rows += 1
        self.left_out[fault] += 1
        self.first.setdefault(fault, where)

    def take_back(self, fault: Fault, where: str) -> None:
        """Leave a row out that was counted as used."""
        self.rows -= 1
        self.used -= 1
        self.leave_out(fault, where)

    def replace(self, characters: int, where: str) -> None:
        """Count characters that were replaced in decoding."""
        if characters:
            self.replaced += characters
            self.replaced_first = self.replaced_first or where

    @property
    def told(self) -> list[str]:
        """What was left out or replaced, in words; nothing if all was used."""
        lines = [
            f"{number:,} of {counted(self.rows, 'row')} left out: {fault.reason} (first: {self.first[fault]})"
            for fault, number in self.left_out.most_common()
        ]
        if self.empty:
            lines.append(f"{self.empty:,} of {counted(self.rows, 'row')} are empty texts")
        if self.replaced:
            lines.append(
                f"{counted(self.replaced, 'character')} of {self.characters:,} replaced: their bytes are no UTF-8 "
                f"(first: {self.replaced_first})"
            )
        return [*lines, *self.notes]

    def check(self, whole: bool = True) -> None:
        """Refuse data of which too much is lost.

        Args:
            whole: everything was read. Else the reading goes on: judge only if enough was read.

        Raises:
            DataError: it is more than a small share.
        """
        self.is_whole = whole
        if whole or self.characters >= ENOUGH_CHARACTERS:
            self._check_characters()
        if not whole and self.rows < ENOUGH_ROWS:
            return
        allowed = self.most * self.rows
        if not whole:  # in a part of the rows there may be a few more by chance
            allowed += 4 * math.sqrt(allowed)
        if (faults := self.left_out.total()) > allowed:
            fault, number = self.left_out.most_common(1)[0]
            others = faults - number
            also = f"; {counted(others, 'row')} for other reasons" if others else ""
            allow = f"; or allow it in the spec with data.max_left_out (now {self.most:g})"
            raise DataError(
                "too many rows of the data can't be used",
                f"{number:,} of {counted(self.rows, 'row')}: {fault.reason} (first: {self.first[fault]}){also}",
                fault.next_step + (allow if self.used else ""),
            )

    def _check_characters(self) -> None:
        if self.replaced > MOST_REPLACED * self.characters:
            raise DataError(
                f"{self.replaced_first.rpartition(', ')[0] or 'the data'} is not text in UTF-8",
                f"the bytes of {counted(self.replaced, 'character')} of {self.characters:,} are no UTF-8",
                "convert it to UTF-8 first, e.g. iconv -f LATIN1 -t UTF-8 FILE",
            )
