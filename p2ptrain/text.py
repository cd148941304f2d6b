"""Words from elsewhere, which end up on terminals: what could move a cursor, change colours or turn the direction of
writing is neither accepted in records nor shown.
"""

from __future__ import annotations

import re

MAX_NAME = 32
_UNSEEN = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f"
)
"""Control characters, and those that are not seen but change what is."""
_CONTROL = re.compile(f"[{_UNSEEN}]")
_CONTROL_IN_LINES = re.compile(f"(?![\\n\\t])[{_UNSEEN}]")


def check_printable(text: str) -> str:
    """Return `text`.

    Raises:
        ValueError: it holds a control character.
    """
    if found := _CONTROL.search(text):
        raise ValueError(f"a character that can't be shown ({ord(found[0]):#x})")
    return text


def printable(text: str) -> str:
    """With a mark in the place of each character that could do something to a terminal; lines stay lines."""
    return _CONTROL_IN_LINES.sub("\ufffd", text)


def one_line(text: str, most: int) -> str:
    """`printable`, and no longer than `most` characters, on one line: for words that stand beside others."""
    flat = printable(" ".join(text[: 10 * most].split()))
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def check_name(text: str) -> str:
    """A peer's display name, without space around it.

    Raises:
        ValueError: too long, or not to be shown; says so.
    """
    name = text.strip()
    if len(name) > MAX_NAME:
        raise ValueError(f"a name has at most {MAX_NAME} characters, not {len(name)}")
    return check_printable(name)
