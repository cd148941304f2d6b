"""Random texts and values, as tables and text files have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz     ",
    "ABCxyz0123456789 .,;:!?",
    "äöüßéèêñçÅø £§ abc",
    "жизньчеловекмир ",
    "日本語文字列漢字",
    "😀🎉👍🏽 ✨",
    "\"'`´“”„ ab",
    ",\t;|\\/{}[]<>&%#* ab",
    "\u2028\u2029\u0085\u00a0\u200b\ufeff\ufffd ab",
    "\x0b\x0c\x08\x1b abcdefg",
)
MEANT = (
    "NA",
    "N/A",
    "null",
    "None",
    "nan",
    "NaN",
    "NULL",
    "true",
    "False",
    "0",
    "1",
    "1.0",
    "-",
    " ",
    "  ",
    "#",
    "\\N",
)
"""Texts that other readers take for no value."""
CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]


def text(random: Random, longest: int = 60, lines: bool = True) -> str:
    """A text, hardly ever empty.

    Args:
        lines: it may hold line ends.
    """
    if random.random() < 0.05:
        return random.choice(MEANT)
    alphabet = random.choice(ALPHABETS[:2] if random.random() < 0.5 else ALPHABETS)
    made = "".join(random.choices(alphabet, k=random.randint(1, longest)))
    if lines and random.random() < 0.1:
        at = random.randrange(len(made))
        made = made[:at] + random.choice(("\n", "\r\n", "\r", "\n\n")) + made[at:]
    return made


def few_bad_bytes(random: Random, made: str) -> str:
    """The text with some bytes that are no UTF-8, as Python's surrogateescape writes them."""
    at = random.randint(1, len(made))  # at its beginning they could be a byte-order mark
    return (
        made[:at] + "".join(chr(0xDC00 + random.randint(0x80, 0xFF)) for _ in range(random.randint(1, 3))) + made[at:]
    )


def json_value(random: Random) -> Any:
    """A value of JSON that is no text."""
    makers: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: float("nan"),
        lambda: random.randint(-(10**18), 10**18),
        lambda: random.uniform(-1e6, 1e6),
        lambda: random.choice((True, False)),
        lambda: [text(random, 5) for _ in range(random.randint(0, 3))],
        lambda: {"a": text(random, 5)},
        lambda: CHAT,
        lambda: "",
    )
    return random.choice(makers)()


def deep(random: Random) -> str:
    """JSON that is nested deeper than Python's reader goes."""
    opened, closed = random.choice((("[", "]"), ('{"a":', "}")))
    return '{"text":' + opened * 100_000 + "0" * (opened != "[") + closed * 100_000 + "}"


def broken_line(random: Random, row: dict[str, Any]) -> str:
    """A line of a JSONL file that holds no object."""
    whole = json.dumps(row)
    wrong = [
        whole[: random.randint(1, max(1, len(whole) - 1))],
        whole + "}",
        whole + whole,
        whole[1:],
        "null",
        "3",
        '"text"',
        "true",
        "nothing here",
        "{",
        '{"text": }',
        "<html>",
    ]
    if random.random() < 0.03:
        return deep(random)
    return random.choice(wrong)


def parquet_column(random: Random, role: str) -> tuple[str, Callable[[], Any]]:
    """(name of a Parquet type, maker of its values). Mostly text."""
    plain = ("string", lambda: text(random))
    words: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("int64", lambda: random.randint(-(10**18), 10**18)),
        ("double", lambda: random.choice((random.uniform(-1e3, 1e3), float("nan")))),
        ("bool", lambda: random.choice((True, False))),
        ("date", lambda: date(2000, 1, 1) + timedelta(days=random.randint(0, 9999))),
        (
            "timestamp",
            lambda: datetime(2000, 1, 1, tzinfo=UTC).replace(tzinfo=None) + timedelta(seconds=random.randint(0, 10**8)),
        ),
        ("decimal", lambda: Decimal(random.randint(-(10**6), 10**6)).scaleb(-2)),
    )
    others: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("binary", lambda: random.randbytes(random.randint(0, 20))),
        ("list", lambda: [text(random, 5) for _ in range(random.randint(0, 3))]),
        ("struct", lambda: {"a": text(random, 5), "b": 1}),
        ("chat", lambda: CHAT),
        ("null", lambda: None),
    )
    texts = ("large_string", lambda: text(random)), ("dictionary", lambda: text(random, 3))
    luck = random.random()
    if luck < 0.75:
        return plain
    if luck < 0.88:
        return random.choice(texts)
    if luck < 0.95 and role == "words":
        return random.choice(words)
    return random.choice(others + (words if role == "document" else ()))
