"""Datasets by the library's own rules: which files are read here, and which by the library."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from p2ptrain.data.cells import Columns, Kind
from p2ptrain.data.library import stream_sources, table_sources
from p2ptrain.data.source import File, LibraryRows, Source
from p2ptrain.data.table import Table
from p2ptrain.errors import DataError
from tests.unit.data.samples import TEXT, dataset, stream_of, texts, write_table

pytestmark = pytest.mark.usefixtures("own_dataset_cache")

ROWS = [{"text": f"row {number}", "n": number} for number in range(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


def described(folder: Path, config: str) -> None:
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n{config}---\n")


def texts_of(sources: list[Source], columns: Columns = TEXT) -> list[str]:
    return [row["text"] for row in Table(sources, columns, 0.0)]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".jsonl.zst"])
def test_files_of_common_formats_are_read_here(folder: Path, ending: str, streaming: bool) -> None:
    write_table(folder / f"train{ending}", ROWS)
    sources = (stream_sources if streaming else table_sources)(dataset(folder), TEXT)
    assert all(isinstance(source, File) for source in sources)
    assert texts_of(sources) == [row["text"] for row in ROWS]


@pytest.mark.parametrize("make", [table_sources, stream_sources])
def test_files_need_not_have_the_same_columns(folder: Path, make: Any) -> None:
    """The library itself can't cast them, or takes the type from the first rows."""
    write_table(folder / "train-0.jsonl", [{"text": "a", "other": None}])
    write_table(folder / "train-1.jsonl", [{"text": "b", "other": [1], "one more": "x"}])
    assert texts_of(make(dataset(folder), TEXT)) == ["a", "b"]


@pytest.mark.parametrize("make", [table_sources, stream_sources])
def test_a_file_that_lacks_a_column_is_named_with_the_column(folder: Path, make: Any) -> None:
    write_table(folder / "train-0.csv", [{"text": "a", "label": "x"}])
    write_table(folder / "train-1.csv", [{"text": "b", "other": "x"}])
    columns: Columns = {"text": Kind.TEXT, "label": Kind.WORDS}
    with pytest.raises(DataError, match=r"train-1\.csv has no column 'label'"):
        Table(make(dataset(folder), columns), columns, 0.0)


def test_the_row_groups_of_few_parquet_files_are_sources_of_their_own(folder: Path) -> None:
    write_table(folder / "train.parquet", ROWS, group=6)
    sources = stream_sources(dataset(folder), TEXT)
    assert len(sources) == 4
    assert texts_of(sources) == [row["text"] for row in ROWS]


def test_a_short_text_has_enough_documents_to_hold_some_out_and_deal_the_others(folder: Path) -> None:
    lines = [f"line {number} of a short text\n" for number in range(2000)]
    (folder / "train.txt").write_text("".join(lines))
    [source] = stream_sources(dataset(folder), TEXT)
    documents = texts(source.rows(TEXT, stream_of(folder / "train.txt").tally))
    assert "".join(documents) == "".join(lines)
    assert len(documents) > 40


def test_other_formats_and_parts_of_a_split_are_read_by_the_library(folder: Path) -> None:
    write_table(folder / "train.jsonl", ROWS)
    [part] = table_sources(dataset(folder, streaming=False, split="train[5:10]"), TEXT)
    assert isinstance(part, LibraryRows)
    assert texts_of([part]) == [f"row {number}" for number in range(5, 10)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library does not close its file
@pytest.mark.parametrize("make", [table_sources, stream_sources])
def test_a_csv_whose_description_names_another_separator_is_read_as_it_says(folder: Path, make: Any) -> None:
    (folder / "train.csv").write_text("text;label\na, b;NA\nc;null\nd;007\n")
    described(folder, '  data_files: train.csv\n  sep: ";"\n')
    columns: Columns = {"text": Kind.TEXT, "label": Kind.WORDS}
    table = Table(make(dataset(folder), columns), columns, 0.0)
    assert [tuple(row.values()) for row in table] == [("a, b", "NA"), ("c", "null"), ("d", "007")]
    gc.collect()


def test_a_part_of_a_csv_is_read_as_the_whole_is(folder: Path) -> None:
    (folder / "train.csv").write_text("text,label\nNA,007\nnull,1.0\nc,\nd,x\n")
    columns: Columns = {"text": Kind.WORDS, "label": Kind.WORDS}
    table = Table(table_sources(dataset(folder, split="train[:3]"), columns), columns, 0.5)
    assert [tuple(row.values()) for row in table] == [("NA", "007"), ("null", "1.0")]
    assert list(table.tally.left_out.values()) == [1]


def test_a_column_that_the_library_does_not_find_is_an_error(folder: Path) -> None:
    write_table(folder / "train.jsonl", ROWS)
    with pytest.raises(DataError, match="has no column 'body'"):
        Table(table_sources(dataset(folder, split="train[:5]"), ["body"]), {"body": Kind.TEXT}, 0.0)


@pytest.mark.parametrize("name", ["nobody/has-this", "/no/such/folder", "not a name"])
@pytest.mark.parametrize("make", [table_sources, stream_sources])
def test_a_dataset_that_is_not_there_is_an_error_that_names_it(name: str, make: Any) -> None:
    with pytest.raises(DataError, match=f"the dataset '{name}'") as missing:
        make(dataset(name), TEXT)
    assert missing.value.why


@pytest.mark.parametrize("make", [table_sources, stream_sources])
def test_a_split_that_is_not_there_is_an_error(folder: Path, make: Any) -> None:
    write_table(folder / "train.jsonl", ROWS)
    with pytest.raises(DataError, match="can't load the dataset"):
        make(dataset(folder, split="nowhere"), TEXT)


@pytest.mark.parametrize("raw", [b"", b"PAR1", b"once upon a time", b"version https://git-lfs.github.com/spec/v1\n"])
@pytest.mark.parametrize("make", [table_sources, stream_sources])
def test_a_parquet_file_that_is_none_is_an_error_before_anything_is_trained(
    folder: Path, make: Any, raw: bytes
) -> None:
    (folder / "train.parquet").write_bytes(raw)
    with pytest.raises(DataError):
        texts_of(make(dataset(folder), TEXT))
