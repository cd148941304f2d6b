"""What a trial's files hold, known by those who wrote them: the oracle has nothing of the product's code.

A fault has a kind. The messages of the product are matched with the kinds here, and nowhere else.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

REASONS = {
    "empty": r"^column .* is empty$",
    "type": r"^column .* holds .*, not text$",
    "json": r"^not a JSON object$",
    "cells": r"^not as many cells as the header$",
    "csv": r"^not valid CSV",
    "quote": r"^in a cell whose quotes do not match$",
}
"""Why a row is left out: kind of the fault, and the product's words."""
REFUSALS = {
    "left": "too many rows of the data can't be used",
    "replaced": "is not text in UTF-8",
    "foreign": r"is not text|is not text in UTF-8|is not a Parquet file|can't read|can't load",
    "damaged": r"can't read|can't load",
    "column": "has no column|is no CSV file|is not valid CSV",
    "kinds": "different kinds|is no table|can't load",
    "no header": "is empty",
    "label": "has the label",
    "absent label": "no row has the label",
    "held out": "is held out",
    "training": "too little text to train on|no example to train on",
    "no rows": "dataset is empty|data files are empty|no example to train on|is held out",
    "too long": "is too long",
}
"""Why everything is refused: kind, and the product's words."""

WORD_TYPES = (int, float, Decimal, date, time, timedelta)


def kind_of(reason: str) -> str:
    """The kind of a fault, from the product's words."""
    return next((kind for kind, words in REASONS.items() if re.search(words, reason)), f"unknown: {reason}")


@dataclass
class Row:
    """One row that was written."""

    cells: dict[str, str] | None
    """What must be read of it; None if the row can't be used."""
    fault: str = ""
    surrogates: int = 0
    """Lone surrogates in the cells, which can't be written as UTF-8."""


@dataclass
class Truth:
    """What some files hold."""

    rows: list[Row] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    """The whole text of each text file. A text file has no rows here."""
    characters: int = 0
    replaced: int = 0
    """Characters whose bytes are no UTF-8."""
    refused: dict[str, str] = field(default_factory=dict)
    """Kinds of faults for which the whole must be refused, and what the message must name."""
    notes: list[str] = field(default_factory=list)
    """What the volunteer must be told."""

    def add(self, other: Truth) -> None:
        """Add what another file holds."""
        self.rows += other.rows
        self.documents += other.documents
        self.characters += other.characters
        self.replaced += other.replaced + sum(row.surrogates for row in other.rows if row.cells is not None)
        for kind, named in other.refused.items():  # of several faults, any may be named
            self.refused[kind] = "" if kind in self.refused else named

    @property
    def usable(self) -> list[dict[str, str]]:
        return [row.cells for row in self.rows if row.cells is not None]

    @property
    def left_out(self) -> Counter[str]:
        return Counter(row.fault for row in self.rows if row.cells is None)


def row_of(values: dict[str, Any], roles: dict[str, str], empty_is_none: bool = False) -> Row:
    """What must be read of a row.

    Args:
        roles: "document" or "words" for each column that the task reads, in its order.
        empty_is_none: the format can't tell an empty text from no value.
    """
    cells: dict[str, str] = {}
    for column, role in roles.items():
        said = meaning(values.get(column), role, empty_is_none)
        if said in (EMPTY, TYPE):
            return Row(None, said)
        cells[column] = said
    clean = {column: without_surrogates(text) for column, text in cells.items()}
    return Row(clean, surrogates=sum(map(_surrogates, cells.values())))


EMPTY, TYPE = "empty", "type"


def meaning(value: Any, role: str, empty_is_none: bool) -> str:
    """The text that a value stands for, or EMPTY or TYPE (which no generated text is)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return EMPTY
    if isinstance(value, str):
        return EMPTY if not value and (empty_is_none or role == "words") else value
    if role == "document":
        return TYPE
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, WORD_TYPES) else TYPE


def _surrogates(text: str) -> int:
    return sum("\ud800" <= letter <= "\udfff" for letter in text)


def without_surrogates(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
