"""What is text in a cell of a table, and why a row is left out.

All readers end here, so that a value means the same in a CSV, a JSONL and a Parquet file: cells are texts. A number and
a date are written as text, true and false as JSON writes them. Null, NaN and an empty cell of a CSV are no value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

WORDS = (int, float, Decimal, date, time, timedelta, UUID)
"""Types of values that stand for words in a template. bool is an int, and a datetime is a date."""
REPLACEMENT = "\ufffd"
_LIKE_MESSAGES = re.compile(r"\s*\[\s*\{")


class Kind(Enum):
    """What a task makes of a column."""

    TEXT = "text"
    """A document: it must be text."""
    WORDS = "words"
    """A part of a template, or a label: text, a number, a date, true or false."""
    CHAT = "chat"
    """Messages with a role and a content. The cell holds them as JSON."""
    PROMPT = "prompt"
    """The whole of a prompt: words, or messages as JSON."""


_WORDS = (Kind.WORDS, Kind.PROMPT)
_MESSAGES = (Kind.CHAT, Kind.PROMPT)

Columns = Mapping[str, Kind]
"""The columns that a task reads."""
Cells = dict[str, str]
"""The columns of one row; a column without a value is not there."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row can't be used. Rows with equal faults are counted together."""

    reason: str
    """In a few words, e.g. "column 'label' is empty"."""
    next_step: str


def cell_of(value: Any, column: str, kind: Kind) -> str | Fault | None:
    """A value as text; None if there is no value."""
    match value:
        case None:
            return None
        case str():
            return value if kind is not Kind.CHAT or chat_in(value) is not None else _not(column, "text", kind)
        case float() if math.isnan(value):
            return None
        case bool() if kind in _WORDS:
            return "true" if value else "false"
        case _ if kind in _WORDS and isinstance(value, WORDS):
            return str(value)
        case list() if is_chat(value):
            if kind in _MESSAGES:
                return json.dumps(value, ensure_ascii=False, default=_type_of)
            step = f'to train on them, set task.kind = "chat" and task.messages = "{column}"'
            whole = f'; in a completion they must be the whole prompt, task.prompt = "{{{column}}}"'
            why = f"column {column!r} holds chat messages, not text"
            return Fault(why, step + whole if kind is Kind.WORDS else step)
    return _not(column, _type_of(value), kind)


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages, as transformers' chat templates take them."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and isinstance(each.get("role"), str) and "content" in each for each in value)
    )


def chat_in(text: str) -> list[dict[str, Any]] | None:
    """The messages that a text holds as JSON; None if it holds something else."""
    if not _LIKE_MESSAGES.match(text):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if is_chat(value) else None


def _not(column: str, found: str, kind: Kind) -> Fault:
    wanted = "chat messages" if kind is Kind.CHAT else "text"
    form = ': a list of {"role": …, "content": …}' if kind is Kind.CHAT else ""
    return Fault(f"column {column!r} holds {found}, not {wanted}", f"name a column that holds {wanted}{form}")


def _type_of(value: Any) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float() | Decimal():
            return "a number"
        case bytes() | bytearray() | memoryview():
            return "binary data"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
    return f"a {type(value).__name__}"


def without_surrogates(text: str) -> tuple[str, int]:
    r"""The text with U+FFFD for each lone surrogate, and their number. JSON can hold them as \ud800, UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        clean = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return clean, clean.count(REPLACEMENT) - text.count(REPLACEMENT)
    return text, 0


def cells_of(values: Mapping[str, Any], columns: Columns) -> Cells | Fault:
    """The columns of one row as text, or why the row can't be used."""
    cells: Cells = {}
    for column, kind in columns.items():
        cell = cell_of(values.get(column), column, kind)
        if isinstance(cell, Fault):
            return cell
        if cell is None or (not cell and kind is not Kind.TEXT):
            return Fault(f"column {column!r} is empty", "complete the data, or remove these rows")
        cells[column] = cell
    return cells
