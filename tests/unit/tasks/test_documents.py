"""Where text comes from, and which of it nobody trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import DataError, SpecError
from p2ptrain.run.spec import DatasetData, FilesData
from p2ptrain.tasks.documents import (
    LONGEST_DOCUMENT,
    expand,
    is_held_out,
    open_dataset,
    open_table,
    stdlib_documents,
    text_data,
    text_documents,
)
from tests.unit.tasks.samples import tiny_spec

pytestmark = pytest.mark.usefixtures("own_dataset_cache")

ROWS = [{"text": "first", "n": 1}, {"text": "second", "n": 2}]


def files(*paths: Path, column: str = "text") -> FilesData:
    return FilesData(source="files", paths=tuple(map(str, paths)), text_column=column)


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pandas

    frame = pandas.DataFrame(rows)
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".parquet":
            frame.to_parquet(path)
        case ".json":
            path.write_text(json.dumps(rows))
        case _:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


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


def test_a_long_file_becomes_documents_that_end_at_line_ends(tmp_path: Path) -> None:
    lines = [f"line {number:06d}\n" for number in range(20_000)]
    (tmp_path / "long.txt").write_text("".join(lines) + "the end")
    documents = text_documents([tmp_path / "long.txt"])
    assert "".join(documents) == "".join(lines) + "the end"
    assert len(documents) == 4
    assert all(document.endswith("\n") for document in documents[:-1])
    assert max(map(len, documents)) <= LONGEST_DOCUMENT + 12


def test_a_file_that_is_not_utf8_is_read_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert text_documents([tmp_path / "latin.txt"]) == ["caf\ufffd"]


def test_files_that_are_empty_or_unreadable_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="empty"):
        text_documents([tmp_path / "empty.txt"])
    with pytest.raises(DataError, match=r"can't read .*gone\.txt"):
        text_documents([tmp_path / "gone.txt"])


def test_paths_folders_and_globs_are_expanded_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.txt", "a.txt", "sub/deep/c.txt", "d.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [tmp_path / name for name in ("a.txt", "b.txt", "d.md", "sub/deep/c.txt")]
    assert expand([str(tmp_path)]) == names
    assert expand([f"{tmp_path}/*.txt", str(tmp_path / "a.txt")]) == names[:2]
    assert expand([f"{tmp_path}/**/*.txt"]) == [names[0], names[1], names[3]]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand(["~/d.md"]) == [names[2]]


def test_a_path_that_matches_nothing_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for pattern in (tmp_path / "*.txt", tmp_path / "gone.txt", tmp_path / "empty"):
        with pytest.raises(DataError, match="no file matches") as missing:
            expand([str(pattern)])
        assert "--data" in missing.value.next_step


# Tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_tables_are_read_by_their_column(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path / name, ROWS)
    table = open_table(files(path), [path])
    assert table.column_names == ["text"]
    assert [row["text"] for row in table] == ["first", "second"]
    assert open_table(files(path, column="n"), [path])[1] == {"n": 2}


def test_several_files_are_one_table(tmp_path: Path) -> None:
    paths = [write_table(tmp_path / f"{number}.csv", [{"text": f"row {number}"}]) for number in range(3)]
    assert sorted(row["text"] for row in open_table(files(*paths), paths)) == ["row 0", "row 1", "row 2"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_a_missing_column_is_an_error_that_lists_the_columns(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path / name, ROWS)
    with pytest.raises(DataError, match="no column 'body'") as missing:
        open_table(files(path, column="body"), [path])
    assert missing.value.why == "its columns are: 'text', 'n'"
    assert "text_column" in missing.value.next_step


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("header.csv", b"text,n\n"),
        ("empty.parquet", b""),
        ("prose.jsonl", b"once upon a time\n"),
        ("prose.parquet", b"once upon a time\n"),
        ("ragged.csv", b"text,n\na,1\nb,2,3,4\n"),
        ("tabs.csv", b"text\tn\nhello\t1\n"),
        ("lines.csv", b'{"text": "a, b"}\n{"text": "c, d"}\n'),
    ],
)
def test_an_empty_file_or_another_format_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=name) as unusable:
        open_table(files(path), [path])
    assert unusable.value.why


def test_files_of_different_kinds_are_not_mixed(tmp_path: Path) -> None:
    table, other = write_table(tmp_path / "a.csv", ROWS), write_table(tmp_path / "a.parquet", ROWS)
    (tmp_path / "a.txt").write_text("text")
    for paths in ([table, other], [table, tmp_path / "a.txt"]):
        with pytest.raises(DataError, match="of different kinds"):
            open_table(files(*paths), paths)


# Datasets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
def test_a_folder_of_tables_is_a_dataset(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "folder").mkdir()
    write_table(tmp_path / "folder" / "rows.jsonl", ROWS)
    wanted = DatasetData(source="dataset", dataset=str(tmp_path / "folder"), streaming=streaming)
    assert [row["text"] for row in open_dataset(wanted)] == ["first", "second"]
    with pytest.raises(DataError, match="no column 'body'"):
        open_dataset(wanted.model_copy(update={"text_column": "body"}))
    with pytest.raises(DataError, match="can't load the dataset"):
        open_dataset(wanted.model_copy(update={"split": "nowhere"}))


@pytest.mark.parametrize("name", ["nobody/has-this", "/no/such/folder", "not a name"])
def test_a_dataset_that_is_not_there_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(DataError, match=f"the dataset '{name}'") as missing:
        open_dataset(DatasetData(source="dataset", dataset=name))
    assert missing.value.why


def test_a_run_of_a_founders_own_program_has_no_text_here() -> None:
    for spec in (tiny_spec(architecture="custom"), tiny_spec(data={"source": "custom"})):
        with pytest.raises(SpecError, match="made by a program of its founder"):
            text_data(spec)
