"""What is left out or replaced is counted, told in words, and refused if it is too much."""

from __future__ import annotations

import pytest

from p2ptrain.data.cells import Fault
from p2ptrain.data.tally import ENOUGH_ROWS, Tally
from p2ptrain.errors import DataError

EMPTY, BROKEN = Fault("column 'label' is empty", "complete the data"), Fault("not a JSON object", "correct the lines")


def counted(used: int, most: float = 0.05, **faults: int) -> Tally:
    tally = Tally(most)
    for number in range(faults.get("empty", 0)):
        tally.leave_out(EMPTY, f"rows.csv, row {number + 2}")
    for number in range(faults.get("broken", 0)):
        tally.leave_out(BROKEN, f"rows.csv, row {number + 900}")
    for _ in range(used):
        tally.use({"text": "a"})
    return tally


def test_what_was_left_out_is_told_by_reason_and_with_its_first_place() -> None:
    assert counted(149, empty=150, broken=1).told == [
        "150 of 300 rows left out: column 'label' is empty (first: rows.csv, row 2)",
        "1 of 300 rows left out: not a JSON object (first: rows.csv, row 900)",
    ]
    assert counted(300).told == []


def test_empty_texts_and_replaced_characters_are_told() -> None:
    tally = counted(2)
    tally.use({"text": ""})
    tally.characters = 5000
    tally.replace(0, "a.txt, row 1")
    tally.replace(2, "a.txt, row 2")
    tally.replace(1, "b.txt, row 1")
    assert tally.told == [
        "1 of 3 rows are empty texts",
        "3 characters of 5,000 replaced: their bytes are no UTF-8 (first: a.txt, row 2)",
    ]
    tally.check()


def test_more_than_the_share_is_an_error_that_tells_the_commonest_reason() -> None:
    counted(95, empty=5).check()
    with pytest.raises(DataError, match="too many rows of the data can't be used") as refused:
        counted(94, empty=5, broken=1).check()
    assert refused.value.why == (
        "5 of 100 rows: column 'label' is empty (first: rows.csv, row 2); 1 row for other reasons"
    )
    assert refused.value.next_step == ("complete the data; or allow it in the spec with data.max_left_out (now 0.05)")


@pytest.mark.parametrize(
    ("most", "faults", "good"), [(0.0, 1, False), (0.5, 50, True), (0.5, 51, False), (1.0, 100, True)]
)
def test_the_spec_says_how_much_may_be_left_out(most: float, faults: int, good: bool) -> None:
    tally = counted(100 - faults, most, empty=faults)
    if good:
        tally.check()
    else:
        with pytest.raises(DataError):
            tally.check()


def test_a_stream_is_judged_when_enough_was_read() -> None:
    counted(0, empty=ENOUGH_ROWS - 1).check(whole=False)
    with pytest.raises(DataError):
        counted(0, empty=ENOUGH_ROWS).check(whole=False)
    counted(ENOUGH_ROWS, empty=70).check(whole=False)  # by chance, 5 % of all may be a few more of these
    with pytest.raises(DataError):
        counted(ENOUGH_ROWS, empty=120).check(whole=False)


@pytest.mark.parametrize("whole", [True, False])
def test_text_in_another_encoding_is_refused_with_its_file(whole: bool) -> None:
    tally = counted(3)
    tally.characters = 200_000
    tally.replace(200, "a, b.txt, row 7")
    tally.check(whole)
    tally.replace(1, "c.txt, row 1")
    with pytest.raises(DataError, match=r"a, b\.txt is not text in UTF-8") as refused:
        tally.check(whole)
    assert refused.value.why == "the bytes of 201 characters of 200,000 are no UTF-8"
