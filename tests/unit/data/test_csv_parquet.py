"""The rows of CSV and Parquet: what is a row, what is its text, and which rows can't be used."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.data import rows
from p2ptrain.data.cells import Columns, Kind
from p2ptrain.data.rows import BrokenOff, unreadable
from p2ptrain.data.tally import Tally
from p2ptrain.errors import DataError
from tests.unit.data.samples import COMPRESS, faults, read, texts, written

LABELLED: Columns = {"text": Kind.WORDS, "label": Kind.WORDS}


def cells(path: Path, columns: Columns = LABELLED) -> list[tuple[str, ...]]:
    return [tuple(row.values()) for _, row in read(path, columns) if isinstance(row, dict)]


# CSV -----------------------------------------------------------------------------------------------------------------


def test_cells_of_a_csv_are_the_text_that_stands_there(tmp_path: Path) -> None:
    words = ["NA", "None", "null", "nan", "NaN", "N/A", "#N/A", "true", "FALSE", "007", "1.0", "1e5", "-", " x "]
    path = written(tmp_path / "a.csv", "text,label\n" + "".join(f"t,{word}\n" for word in words))
    assert [label for _, label in cells(path)] == words


def test_an_empty_cell_is_no_value(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'text,label\na,\n,b\nc,""\nd,e\n')
    assert faults(read(path, LABELLED)) == {
        1: "column 'label' is empty",
        2: "column 'text' is empty",
        3: "column 'label' is empty",
    }
    assert cells(path) == [("d", "e")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quoted_cells_may_hold_commas_quotes_and_lines(tmp_path: Path, end: str) -> None:
    path = written(tmp_path / "a.csv", end.join(["text,label", '"a, ""b""', 'and c",1', "", "d,2", ""]))
    assert cells(path) == [(f'a, "b"{end}and c', "1"), ("d", "2")]
    assert [number for number, _ in read(path, LABELLED)] == [1, 2]


def test_rows_with_another_number_of_cells_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,label\na,1,2\nb\nc,3\n")
    assert faults(read(path, LABELLED)) == dict.fromkeys((1, 2), "not as many cells as the header")
    assert cells(path) == [("c", "3")]


@pytest.mark.parametrize("after", ["", '"x",1\n', '1,"x"\n'])
def test_all_lines_that_an_open_quote_swallows_are_counted(tmp_path: Path, after: str) -> None:
    """To the end of the file, or to the next quote."""
    path = written(tmp_path / "a.csv", 'text,label\na,1\n"b,2\n' + "c,3\n" * 97 + after + ("d,4\n" if after else ""))
    found = faults(read(path, LABELLED))
    assert set(found.values()) == {"in a cell whose quotes do not match"}
    assert list(found) == list(range(2, 100 + bool(after)))
    assert cells(path) == [("a", "1")] + [("d", "4")] * bool(after)


def test_an_open_quote_does_not_swallow_a_file_that_is_larger_than_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LONGEST_CELL", 1000)
    path = written(tmp_path / "a.csv", 'text,label\n"b,2\n' + "c,3\n" * 5000)
    found = faults(read(path, LABELLED))
    assert 200 < len(found) < 400
    assert len(found) + len(cells(path)) == 5001


def test_a_quote_within_a_row_spoils_that_row_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'text,label\n"a"b,1\nc "d" e,2\nf,3\n')
    assert list(faults(read(path, LABELLED))) == [1]
    assert cells(path) == [('c "d" e', "2"), ("f", "3")]


@pytest.mark.parametrize(
    ("raw", "what", "why"),
    [
        ("", "is empty", "begins with the names"),
        ("text;label\na;1\n", "is no CSV file", "separated by ';'"),
        ("text\tlabel\na\t1\n", "is no CSV file", r"separated by '\t'"),
        ("text,label,label\na,1,2\n", "several columns 'label'", "nobody knows"),
        ("hello,1\nworld,2\n", "no column 'text'", "its columns are: 'hello', '1'"),
        ("text, label\na,1\n", "no column 'label'", "' label'"),
        ('"text,label\na,1\n', "is not valid CSV", "unexpected end of data"),
        ('{"text": "a, b"}\n{"text": "c, d"}\n', "no column 'text'", "its columns are: "),
    ],
)
def test_what_is_no_csv_with_these_columns_is_an_error_that_says_why(
    tmp_path: Path, raw: str, what: str, why: str
) -> None:
    with pytest.raises(DataError, match=what) as refused:
        read(written(tmp_path / "a.csv", raw), LABELLED)
    assert "a.csv" in refused.value.what
    assert why in refused.value.why
    assert refused.value.next_step


def test_a_csv_may_have_a_mark_empty_lines_and_tabs(tmp_path: Path) -> None:
    assert cells(written(tmp_path / "a.csv", "\ufeff\n\ntext,label\n\na,1\n\n")) == [("a", "1")]
    assert cells(written(tmp_path / "a.tsv", "text\tlabel\nb, c\t2\n")) == [("b, c", "2")]
    assert cells(written(tmp_path / "b.csv", "label,z,text,z\n1,,a,\n")) == [("a", "1")], "other columns are not read"


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), min_size=1, max_size=12)


@given(table=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_what_pandas_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str]]
) -> None:
    import pandas

    path = tmp_path_factory.mktemp("csv") / "a.csv"
    frame = pandas.DataFrame([{"text": f"t{text}", "label": f"t{label}"} for text, label in table])
    frame.to_csv(path, index=False)
    assert cells(path) == list(frame.itertuples(index=False, name=None))


# Parquet -------------------------------------------------------------------------------------------------------------


def parquet(path: Path, group: int | None = None, **columns: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def test_texts_of_every_type_are_read(tmp_path: Path) -> None:
    import pyarrow

    plain = pyarrow.array(["a", None, "b"])
    for text in (
        plain,
        plain.cast(pyarrow.large_string()),
        plain.dictionary_encode(),
        plain.cast(pyarrow.string_view()),
    ):
        found = read(parquet(tmp_path / "a.parquet", group=2, text=text, other=[b"\xff"] * 3))
        assert (texts(found), faults(found)) == (["a", "b"], {2: "column 'text' is empty"})


def test_only_the_named_columns_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    asked: list[Any] = []
    iterate = pyarrow.parquet.ParquetFile.iter_batches

    def noted(file: Any, *arguments: Any, **named: Any) -> Any:
        asked.append(named["columns"])
        return iterate(file, *arguments, **named)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", noted)
    path = parquet(tmp_path / "a.parquet", text=["a"], other=[{"x": 1}], label=[3])
    assert cells(path) == [("a", "3")]
    assert asked == [["text", "label"]]


def test_a_row_group_alone_is_counted_from_its_first_row(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", group=300, text=[f"row {number}" for number in range(1000)])
    assert rows.row_groups(str(path), path.name) == 4
    parts = [read(path, group=group) for group in range(4)]
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    assert [number for number, _ in parts[3]] == list(range(1, 101))
    assert [text for part in parts for text in texts(part)] == texts(read(path))


@pytest.mark.parametrize(
    ("value", "told"),
    [(b"a", "binary data"), ([1], "a list"), ({"x": 1}, "an object"), (1, "a number"), (Decimal("1.5"), "a number")],
)
def test_a_column_that_is_no_text_is_named_with_its_type(tmp_path: Path, value: Any, told: str) -> None:
    path = parquet(tmp_path / "a.parquet", text=[value])
    assert faults(read(path)) == {1: f"column 'text' holds {told}, not text"}


def test_bytes_that_are_no_utf_8_are_replaced_and_counted(tmp_path: Path) -> None:
    import pyarrow

    words = [b"good", b"ba\xffd", b"good"]
    offsets = pyarrow.array([0, 4, 8, 12], pyarrow.int32())
    text = pyarrow.StringArray.from_buffers(3, offsets.buffers()[1], pyarrow.py_buffer(b"".join(words)))
    tally = Tally(0.0)
    found = read(parquet(tmp_path / "a.parquet", text=text), tally=tally)
    assert texts(found) == ["good", "ba\ufffdd", "good"]
    assert (tally.replaced, tally.replaced_first) == (1, "a.parquet, row 2")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "it is empty"),
        (b"text\na\n", "it is something else"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "Git LFS pointer"),
        (COMPRESS[".gz"](b"PAR1"), "compressed with gzip"),
    ],
)
def test_what_is_no_parquet_is_an_error_that_says_what_it_is(tmp_path: Path, raw: bytes, why: str) -> None:
    with pytest.raises(DataError, match=r"a\.parquet is not a Parquet file") as refused:
        read(written(tmp_path / "a.parquet", raw))
    assert why in refused.value.why


def test_a_parquet_file_that_was_cut_or_damaged_is_an_error_that_says_where(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", group=100, text=[f"row {number}" for number in range(5000)])
    raw = path.read_bytes()
    for harmed in (raw[: len(raw) // 2], raw[:2000] + b"\xff" * 300 + raw[2300:], b"PAR1"):
        with pytest.raises(BrokenOff) as broken:
            read(written(path, harmed))
        assert unreadable(broken.value).what.startswith("can't read a.parquet, a")


def test_a_column_that_a_file_lacks_is_an_error_that_names_both(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.parquet has no column 'label'") as missing:
        read(parquet(tmp_path / "a.parquet", text=["a"], other=[1]), LABELLED)
    assert missing.value.why == "its columns are: 'text', 'other'"
