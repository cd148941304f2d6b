"""Texts from others that a terminal shows. Characters that move the cursor, change colours or turn the direction of
writing are refused in records, and never shown.
"""

from __future__ import annotations

import re

MAX_NAME = 32
_UNSEEN = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f"
)
"""Control characters, and invisible characters that change how others look."""
_CONTROL = re.compile(f"[{_UNSEEN}]")
_CONTROL_IN_LINES = re.compile(f"(?![\\n\\t])[{_UNSEEN}]")


def check_printable(text: str) -> str:
    """Return `text` as it is.

    Raises:
        ValueError: it holds a character that may not be shown.
    """
    if found := _CONTROL.search(text):
        raise ValueError(f"a character that can't be shown ({ord(found[0]):#x})")
    return text


def printable(text: str) -> str:
    """The text with U+FFFD in place of each character that may not be shown; line breaks and tabs stay."""
    return _CONTROL_IN_LINES.sub("\ufffd", text)


def one_line(text: str, most: int) -> str:
    """The `printable` text on one line, cut to at most `most` characters."""
    flat = printable(" ".join(text[: 10 * most].split()))
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def first_line(error: BaseException) -> str:
    """What an error says first; its class, if it says nothing. A line that ends in a colon says nothing yet."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def reason_of(error: BaseException) -> str:
    """Why something failed: the system's words if the system has refused it, without their number and the path; else
    the `first_line`."""
    return getattr(error, "strerror", None) or first_line(error)


def check_name(text: str) -> str:
    """A peer's display name, without the space around it.

    Raises:
        ValueError: the name is too long, or holds a character that may not be shown.
    """
    name = text.strip()
    if len(name) > MAX_NAME:
        raise ValueError(f"a name has at most {MAX_NAME} characters, not {len(name)}")
    return check_printable(name)
