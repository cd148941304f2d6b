"""Tables: all rows that can be used, with random access, and where each of them came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2ptrain.data import table as tables
from p2ptrain.data.cells import Columns, Kind
from p2ptrain.data.source import Source
from p2ptrain.data.table import Table
from p2ptrain.errors import DataError
from tests.unit.data.samples import TEXT, Listed

pytestmark = pytest.mark.usefixtures("own_dataset_cache")

COLUMNS: Columns = {"text": Kind.TEXT, "label": Kind.WORDS}


def listed(*texts: list[str | None]) -> list[Source]:
    return [Listed(part, f"{at}.jsonl") for at, part in enumerate(texts)]


def test_rows_are_had_in_any_order_and_know_where_they_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHUNK_ROWS", 2)
    table = Table(listed(["a", None, "b"], [], [None, "c", "d", ""]), TEXT, 0.5)
    assert [row["text"] for row in table] == ["a", "b", "c", "d", ""]
    assert [table[at]["text"] for at in (4, 0, 3, 1, 2)] == ["", "a", "d", "b", "c"]
    assert len(table) == 5
    assert [table.where(at) for at in range(5)] == [
        "0.jsonl, row 1",
        "0.jsonl, row 3",
        "2.jsonl, row 2",
        "2.jsonl, row 3",
        "2.jsonl, row 4",
    ]
    assert table.tally.told == [
        "2 of 7 rows left out: column 'text' is empty (first: 0.jsonl, row 2)",
        "1 of 7 rows are empty texts",
    ]


def test_too_many_rows_that_can_not_be_used_are_an_error() -> None:
    texts = ["a", None] * 150
    with pytest.raises(DataError, match="too many rows") as refused:
        Table(listed(texts), TEXT, 0.05)
    assert refused.value.why == "150 of 300 rows: column 'text' is empty (first: 0.jsonl, row 2)"


def test_a_table_without_rows_is_empty() -> None:
    assert len(Table(listed([]), TEXT, 0.0)) == 0
    assert list(Table([], COLUMNS, 0.0)) == []


def test_a_source_that_fails_is_an_error_that_names_file_and_row() -> None:
    source = Listed(["a", "b", "c"], "rows.jsonl", fails={3: EOFError("ended early")})
    with pytest.raises(DataError, match=r"can't read rows\.jsonl, after row 2") as broken:
        Table([source], TEXT, 0.0)
    assert "ended early" in broken.value.why


def test_nothing_is_left_on_the_disk(tmp_path: Path) -> None:
    table = Table(listed(["a"]), TEXT, 0.0)
    with pytest.raises(DataError):
        Table(listed([None]), TEXT, 0.0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert table[0] == {"text": "a"}


def test_a_full_disk_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables.os, "fdopen", full)
    with pytest.raises(DataError, match="can't keep the data on disk") as refused:
        Table(listed(["a"]), TEXT, 0.0)
    assert "HF_HOME" in refused.value.next_step
