"""Rates as volunteers write them."""

from __future__ import annotations

import pytest

from p2ptrain.state.limits import bytes_per_second, rate_text


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5Mbit", 625_000),
        ("5 mbit", 625_000),
        ("5Mbit/s", 625_000),
        ("0.6MB", 600_000),
        (".5MB/s", 500_000),
        ("600kB", 600_000),
        ("80kbit", 10_000),
        ("1Gbit", 125_000_000),
        ("2.GB", 2e9),
        ("100000bit", 12_500),
    ],
)
def test_a_rate_has_a_unit(text: str, rate: float) -> None:
    assert bytes_per_second(text) == rate


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "no rate"),
        ("Mbit", "no rate"),
        ("5MiB", "no rate"),
        ("-5Mbit", "no rate"),
        ("nanMbit", "no rate"),
        ("5Mbit/min", "no rate"),
        ("", "no rate"),
        ("0Mbit", "less than"),
        ("9kB", "less than"),
        (f"{'9' * 400}GB", "less than"),
    ],
)
def test_what_is_no_rate_is_refused_with_an_example(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bytes_per_second(text)


@pytest.mark.parametrize(
    ("rate", "text"), [(625_000, "5 Mbit/s"), (10_000, "80 kbit/s"), (125e6, "1 Gbit/s"), (600_000, "4.8 Mbit/s")]
)
def test_rates_are_shown_in_bits(rate: float, text: str) -> None:
    assert rate_text(rate) == text
