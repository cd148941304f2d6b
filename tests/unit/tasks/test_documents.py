"""Where text comes from, and which of it nobody trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.data.cells import Kind
from p2ptrain.data.rows import LONGEST_DOCUMENT
from p2ptrain.errors import DataError, SpecError
from p2ptrain.run.spec import DatasetData, FilesData
from p2ptrain.tasks import LocalOptions
from p2ptrain.tasks.documents import chosen_data, is_held_out, open_table, own_files, stdlib_documents, text_data
from tests.unit.data.samples import TEXT, dataset, write_table
from tests.unit.tasks.samples import tiny_spec

pytestmark = pytest.mark.usefixtures("own_dataset_cache")

ROWS = [{"text": "first", "n": 1}, {"text": "second", "n": 2}]


def files(*paths: Path, **fields: Any) -> FilesData:
    return FilesData(source="files", paths=tuple(map(str, paths)), **fields)


def texts(data: FilesData | DatasetData) -> list[str]:
    return [row["text"] for row in open_table(data, TEXT)]


# The held-out split ------------------------------------------------------------------------------------------------


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_holds_out_all_that_a_smaller_one_does(text: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert is_held_out(text, large) or not is_held_out(text, small)
    assert not is_held_out(text, 0.0)
    assert is_held_out(text, 1.0)


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_about_the_right_fraction_is_held_out(fraction: float) -> None:
    count = sum(is_held_out(f"document {number}", fraction) for number in range(10_000))
    assert count / 10_000 == pytest.approx(fraction, abs=0.02)


def test_the_split_is_the_same_in_every_version() -> None:
    """Peers of different versions must leave out the same documents."""
    held_out = [number for number in range(60) if is_held_out(f"document {number}", 0.05)]
    assert held_out == [21, 31, 34]
    assert is_held_out("lone \ud800 surrogate", 0.5) == is_held_out("lone ? surrogate", 0.5)


# Files -------------------------------------------------------------------------------------------------------------


def test_the_standard_library_is_there_without_its_tests() -> None:
    documents = stdlib_documents()
    assert len(documents) > 100
    assert any("class JSONDecoder" in text for text in documents)
    assert not any("class TestJSON" in text for text in documents)
    assert documents == stdlib_documents()


def test_text_is_cut_into_some_hundreds_of_documents_at_line_ends(tmp_path: Path) -> None:
    lines = [f"line {number:06d}\n" for number in range(20_000)]
    (tmp_path / "long.txt").write_text("".join(lines) + "the end")
    (tmp_path / "short.txt").write_text("short")
    found = texts(files(tmp_path))
    assert "".join(found) == "".join(lines) + "the end" + "short"
    assert 200 < len(found) < 300
    assert all(document.endswith("\n") for document in found[:-2])
    assert max(map(len, found)) < LONGEST_DOCUMENT


def test_files_without_text_and_files_that_are_gone_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches .*gone\.txt"):
        texts(files(tmp_path / "gone.txt"))
    (tmp_path / "empty.txt").touch()
    assert texts(files(tmp_path / "empty.txt")) == []


def test_what_only_describes_the_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# what this is")
    write_table(tmp_path / "rows.jsonl", ROWS)
    table = open_table(files(tmp_path), TEXT)
    assert [row["text"] for row in table] == ["first", "second"]
    assert table.tally.told == ["1 file not read, because they only describe the data: README.md"]


def test_text_files_are_no_table_of_columns(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("once upon a time")
    with pytest.raises(DataError, match=r"prose\.txt is no table"):
        open_table(files(tmp_path), {"label": Kind.WORDS})


# Datasets ----------------------------------------------------------------------------------------------------------


def test_a_folder_of_tables_is_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write_table(tmp_path / "folder" / "rows.jsonl", ROWS)
    wanted = dataset(tmp_path / "folder", streaming=False)
    assert texts(wanted) == ["first", "second"]
    with pytest.raises(DataError, match="no column 'body'"):
        open_table(wanted, {"body": Kind.TEXT})
    with pytest.raises(DataError, match="can't load the dataset"):
        open_table(wanted.model_copy(update={"split": "nowhere"}), TEXT)


def test_a_volunteers_files_are_read_as_the_spec_says() -> None:
    data = {"source": "dataset", "dataset": "a/texts", "text_column": "body", "max_left_out": 0.5, "held_out": 0.3}
    chosen = chosen_data(tiny_spec(data=data), LocalOptions(data=("mine.csv",)))
    assert isinstance(chosen, FilesData)
    assert (chosen.paths, chosen.text_column, chosen.max_left_out) == (("mine.csv",), "body", 0.5)
    assert (chosen.held_out, chosen_data(tiny_spec(data=data), LocalOptions())) == (0.3, tiny_spec(data=data).data)


def test_files_of_this_machine_are_known_from_others(tmp_path: Path) -> None:
    assert own_files(tiny_spec(data={"source": "files", "paths": ["a.txt"]})) == ("a.txt",)
    assert own_files(tiny_spec(data={"source": "dataset", "dataset": str(tmp_path)})) == (str(tmp_path),)
    assert own_files(tiny_spec(data={"source": "dataset", "dataset": "a/texts"})) == ()


def test_a_run_of_a_founders_own_program_has_no_text_here() -> None:
    for spec in (tiny_spec(architecture="custom"), tiny_spec(data={"source": "custom"})):
        with pytest.raises(SpecError, match="made by a program of its founder"):
            text_data(spec)
