"""Words from elsewhere do nothing to a terminal."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.text import MAX_NAME, check_name, check_printable, one_line, printable, reason_of

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


@given(st.text(), st.integers(1, 50))
def test_a_line_beside_others_is_one_short_printable_line(text: str, most: int) -> None:
    line = one_line(text, most)
    assert check_printable(line) == line.strip()
    assert len(line) <= most


def test_a_line_that_is_cut_says_so() -> None:
    assert one_line(" a\n  b\x1b ", 10) == "a b\ufffd"
    assert one_line("abcdef", 6) == "abcdef"
    assert one_line("abcdefg", 6) == "abcde…"


def test_a_name_is_short_and_has_no_space_around_it() -> None:
    assert check_name("  Otto's laptop ") == "Otto's laptop"
    assert check_name("n" * MAX_NAME)
    with pytest.raises(ValueError, match="at most 32 characters, not 33"):
        check_name("n" * 33)
    with pytest.raises(ValueError, match="can't be shown"):
        check_name("otto\x1b[1m")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "/a"), os.strerror(errno.EACCES)),
        (OSError("no such thing\nmore"), "no such thing"),
        (RuntimeError("it failed:\n\n  no room"), "it failed: no room"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_reason_is_one_line_without_numbers_and_paths(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
