"""Words from elsewhere do nothing to a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.text import MAX_NAME, check_name, check_printable, printable

HARMFUL = ["\x1b[2J", "a\x00", "a\rb", "a\nb", "\x9b1A", "\x7f", "abc\u202egnp", "\u200b", "\u2066", "\ufeff", "\ud800"]


@pytest.mark.parametrize("text", HARMFUL)
def test_what_moves_cursors_or_turns_writing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="can't be shown"):
        check_printable(text)


@pytest.mark.parametrize("text", ["", "AMD EPYC, 2 threads", "Grüße", "日本", "🦦 otter", "[bold]", "a\u00a0b"])
def test_words_of_any_language_are_accepted(text: str) -> None:
    assert check_printable(text) == printable(text) == text


@given(st.text())
def test_what_is_shown_is_lines_of_printable_words(text: str) -> None:
    for part in printable(text).replace("\t", "\n").split("\n"):
        check_printable(part)


def test_lines_stay_lines() -> None:
    assert printable("error: a\n  why:\tb\x1b") == "error: a\n  why:\tb\ufffd"


def test_a_name_is_short_and_has_no_space_around_it() -> None:
    assert check_name("  Otto's laptop ") == "Otto's laptop"
    assert check_name("n" * MAX_NAME)
    with pytest.raises(ValueError, match="at most 32 characters, not 33"):
        check_name("n" * 33)
    with pytest.raises(ValueError, match="can't be shown"):
        check_name("otto\x1b[1m")
