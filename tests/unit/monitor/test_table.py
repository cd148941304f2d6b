"""Peers in tables and lines, from their presence records alone."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from p2ptrain.monitor import peers_lines, peers_table
from p2ptrain.units import age, duration, size
from tests.unit.monitor.samples import PEERS, STATE, presence


def rendered(*args: object, **kwargs: object) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(peers_table(*args, **kwargs))  # type: ignore[arg-type]
    return console.export_text()


def test_the_table_shows_every_peer_in_the_order_of_their_ids() -> None:
    table = rendered([presence(peer) for peer in reversed(PEERS)], PEERS[2], title="run 01234567: 3 peers")
    rows = [line for line in table.splitlines() if STATE[:8] in line]
    assert [peer[-6:] in row for peer, row in zip(PEERS, rows, strict=True)] == [True] * 3
    assert ["(you)" in row for row in rows] == [False, False, True]
    assert table.splitlines()[0].strip() == "run 01234567: 3 peers"


def test_a_row_holds_what_the_peer_said() -> None:
    table = rendered([presence(PEERS[0])])
    for part in ("training", "12", STATE[:8], "345", "4,321", "2.345", "2.222 @8", "7.7 MB", "cpu, 2 threads"):
        assert part in table


def test_what_was_taken_back_has_a_column_if_somebody_took_something_back() -> None:
    assert "taken back" not in rendered([presence(peer) for peer in PEERS])
    table = rendered([presence(PEERS[0]), presence(PEERS[1], taken_back=17)])
    assert "taken back" in table
    assert [line.split("│")[-2].strip() for line in table.splitlines() if STATE[:8] in line] == ["", "17"]


def test_names_and_limits_have_columns_if_somebody_has_one() -> None:
    table = rendered([presence(peer) for peer in PEERS])
    assert "name" not in table
    assert "limit" not in table
    limited = presence(PEERS[1], name="Otto's [red]laptop[/red]", max_up=625_000, max_down=10_000)
    table = rendered([presence(PEERS[0]), limited])
    assert "↑ 5 Mbit/s ↓ 80 kbit/s" in table
    assert "Otto's [red]laptop[/red]" in table, "brackets are no markup"
    assert 'name="Otto\'s [red]laptop[/red]" ' in peers_lines([limited])[0]
    assert " limit=↑5Mbit/s↓80kbit/s " in peers_lines([limited])[0]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (160, "peer phase height state steps tokens/s loss held-out sent device"),
        (100, "peer phase height state steps tokens/s loss held-out sent"),
        (80, "peer phase height steps tokens/s loss held-out"),
        (40, "peer phase height"),
        (10, "peer phase height"),
    ],
)
def test_a_narrow_terminal_gets_whole_columns(width: int, columns: str) -> None:
    table = rendered([presence(peer) for peer in PEERS], PEERS[0], width=width)
    assert table.splitlines()[1].replace("┃", " ").split() == columns.split()
    assert max(map(len, table.splitlines())) <= max(width, 40)
    assert "…" not in table


def test_what_is_not_known_yet_is_a_dash() -> None:
    table = rendered([presence(PEERS[0], loss=None, eval_height=0, eval_loss=None)])
    assert table.count("–") == 2


def test_a_table_of_nobody_is_only_a_header() -> None:
    assert "tokens/s" in rendered([])


def test_lines_hold_the_same_for_a_pipe_with_the_whole_peer_id() -> None:
    lines = peers_lines([presence(peer) for peer in reversed(PEERS)])
    assert [line.split()[0] for line in lines] == PEERS
    assert lines[0].split(maxsplit=1)[1] == (
        f"name='' phase=training height=12 state={STATE[:8]} steps=345 tokens/s=4321 loss=2.345 held_out=2.222 "
        "sent=7654321 limit=none taken_back=0 version=0.1.0 reach=unknown device='cpu, 2 threads'"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (2e9, "2.0 GB"),
        (5e12, "5.0 TB"),
        (7e15, "7000.0 TB"),
    ],
)
def test_sizes_are_in_powers_of_1000(count: float, text: str) -> None:
    assert size(count) == text


@given(st.integers(0, 10**15))
def test_a_size_is_the_count_to_a_tenth_of_its_unit(count: int) -> None:
    number, unit = size(count).split()
    scale = 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit)
    assert abs(float(number) * scale - count) <= 0.0501 * scale


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3599.6, "1 h 0 min"),
        (7800, "2 h 10 min"),
        (360_000, "100 h 0 min"),
    ],
)
def test_durations_are_told_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (119, "1 min"),
        (3600, "1 h"),
        (172_799, "47 h"),
        (172_800, "2 days"),
        (1e7, "115 days"),
    ],
)
def test_ages_are_told_in_one_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text
