"""An author's log has no gaps and no record twice, in whatever order its batches come; cuts and marks are all kept."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.run import digest_of
from p2ptrain.state import Ledger
from p2ptrain.state.logs import BatchRow, CutRow, Log, Logs, MarkRow
from tests.unit.state.samples import PEERS

LOGS = [Log(PEERS[0], b"session1"), Log(PEERS[0], b"session2"), Log(PEERS[1], b"session1")]


def batch(log: Log, start: int, stop: int, variant: int = 0) -> BatchRow:
    return BatchRow(log, start, stop, f"{start} to {stop}, {variant}".encode())


AHEAD = st.sampled_from([0, 0, 0, 0, -2, -1, 1, 2])
"""How far behind the end of its log a batch begins: mostly right there."""
BATCHES = st.tuples(st.sampled_from(LOGS), AHEAD, st.integers(-1, 3), st.integers(0, 1))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def logs(ledger: Ledger) -> Logs:
    return ledger.logs


# Batches -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(st.lists(BATCHES, max_size=8), max_size=6), start=st.integers(0, 9), limit=st.integers(0, 6))
def test_a_log_grows_only_where_it_ends(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[tuple[Log, int, int, int]]], start: int, limit: int
) -> None:
    path = tmp_path_factory.mktemp("logs") / "ledger.sqlite"
    ledger, model = Ledger(path), defaultdict[Log, list[BatchRow]](list)
    for call in calls:
        given_now, expected = list[BatchRow](), list[BatchRow]()
        for log, ahead, length, variant in call:
            end = model[log][-1].stop if model[log] else 0
            first = max(0, end + ahead)
            given_now.append(batch(log, first, first + length, variant))
            if first == end and length > 0:
                model[log].append(given_now[-1])
                expected.append(given_now[-1])
        assert ledger.logs.append(given_now) == expected
    for _ in range(2):  # also after a restart
        assert ledger.logs.lengths() == {log: kept[-1].stop for log, kept in model.items() if kept}
        for log in LOGS:
            kept = ledger.logs.batches(log)
            assert kept == model[log]
            assert [each.start for each in kept] == [0, *(each.stop for each in kept)][:-1]
            asked = [each for each in kept if each.stop > start]
            assert ledger.logs.batches(log, start, limit) == asked[:limit]
        ledger.close()
        ledger = Ledger(path)
    ledger.close()


def test_what_is_forgotten_can_be_said_again(logs: Logs) -> None:
    said = [batch(LOGS[0], 0, 3), batch(LOGS[0], 3, 5), batch(LOGS[0], 5, 6)]
    other = batch(LOGS[1], 0, 9)
    logs.append([*said, other])
    logs.drop_from(LOGS[0], 3)
    assert logs.lengths() == {LOGS[0]: 3, LOGS[1]: 9}
    again = batch(LOGS[0], 3, 5, variant=1)
    assert logs.append([again]) == [again]


@pytest.mark.long
def test_a_million_records_take_less_than_four_megabytes(ledger: Ledger, logs: Logs) -> None:
    """Batches of 64 as one-byte SPSA keeps them: 5 + 64 + 64 bytes."""
    log = LOGS[0]
    whole = [BatchRow(log, at, at + 64, bytes([at // 64 % 251] * 133)) for at in range(0, 10**6, 64)]
    logs.append(whole)
    (pages,) = ledger._db._db.execute("PRAGMA page_count").fetchone()
    (page,) = ledger._db._db.execute("PRAGMA page_size").fetchone()
    assert pages * page < 4_000_000


def test_a_long_log_is_read_in_pieces(logs: Logs) -> None:
    whole = [batch(LOGS[0], 3 * number, 3 * number + 3) for number in range(600)]
    assert logs.append(whole) == whole
    found: list[BatchRow] = []
    while piece := logs.batches(LOGS[0], found[-1].stop if found else 0):
        assert len(piece) <= 256
        found.extend(piece)
    assert found == whole


def test_an_append_that_is_interrupted_leaves_nothing(logs: Logs) -> None:
    def interrupted() -> Iterator[BatchRow]:
        yield batch(LOGS[0], 0, 5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logs.append(interrupted())
    assert logs.lengths() == {}
    assert logs.append([batch(LOGS[0], 0, 2)]), "nothing stands in its way"


# Cuts and marks ----------------------------------------------------------------------------------------------------


def test_the_lowest_cut_of_each_log_comes_first_and_all_are_kept_once(ledger: Ledger, tmp_path: Path) -> None:
    made = [CutRow(log, at, reason) for log in LOGS for at in (7, 0, 300) for reason in (b"an order", b"a lie")]
    for cut in itertools.chain(reversed(made), made[:4]):
        ledger.logs.add_cut(cut)
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite")
    found = again.logs.cuts()
    assert sorted(found, key=made.index) == made
    for log in LOGS:
        assert [cut.at for cut in found if cut.log == log] == [0, 0, 7, 7, 300, 300]
    again.close()


def test_marks_come_newest_first_and_the_first_word_on_one_stands(ledger: Ledger, tmp_path: Path) -> None:
    made = [MarkRow(digest_of(bytes([number])), records, b"%d" % number) for number, records in enumerate([5, 90, 30])]
    for mark in (*made, MarkRow(made[0].digest, 1000, b"another")):
        ledger.logs.add_mark(mark)
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite")
    assert again.logs.marks() == [made[1], made[2], made[0]]
    again.close()
