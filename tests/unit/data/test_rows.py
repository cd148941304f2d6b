"""The rows of JSON and of text: what is a row, what is its text, and which rows can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.data.cells import Kind
from p2ptrain.data.rows import BrokenOff, unreadable
from p2ptrain.data.tally import Tally
from p2ptrain.errors import DataError
from tests.unit.data.samples import COMPRESS, TEXT, faults, read, texts, write_table, written

# JSON ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson", "a.jsonl.gz"])
@pytest.mark.parametrize("form", ["lines", "array", "pretty array"])
def test_lines_and_arrays_are_told_apart_by_what_they_are(tmp_path: Path, name: str, form: str) -> None:
    table = [{"text": "first [1]", "n": 1}, {"text": "second", "n": None}]
    raw = {
        "lines": "\n".join(map(json.dumps, table)) + "\n\n",
        "array": json.dumps(table),
        "pretty array": "\n " + json.dumps(table, indent=2),
    }[form].encode()
    path = written(tmp_path / name, COMPRESS[".gz"](raw) if name.endswith(".gz") else raw)
    assert texts(read(path)) == ["first [1]", "second"]


BAD_LINES = {
    "cut": '{"text": "this line was cut by a full di',
    "two in one": '{"text": "a"}{"text": "b"}',
    "no object": "[1, 2]",
    "null": "null",
    "a text": '"text"',
    "deep": '{"text": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "huge number": '{"text": "a", "x": ' + "9" * 5000 + "}",
    "zero bytes": "\0" * 100,
    "other bytes": "\udcff\udcfe",
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_left_out_with_its_number(tmp_path: Path, line: str) -> None:
    good = '{"text": "' + "good " * 1000 + '"}'
    raw = f"{good}\n{line}\n{good}\n".encode("utf-8", "surrogateescape")
    found = read(written(tmp_path / "a.jsonl", raw))
    assert faults(found) == {2: "not a JSON object"}
    assert len(texts(found)) == 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "column 'text' is empty"),
        (float("nan"), "column 'text' is empty"),
        (["a", "b"], "column 'text' holds a list, not text"),
        ({"en": "a"}, "column 'text' holds an object, not text"),
        (5, "column 'text' holds a number, not text"),
        (True, "column 'text' holds true or false, not text"),
        ([{"role": "user", "content": "hi"}], "column 'text' holds chat messages, not text"),
    ],
)
def test_what_is_no_text_is_never_trained_on_as_pythons_own_words(tmp_path: Path, value: Any, reason: str) -> None:
    path = written(tmp_path / "a.jsonl", json.dumps({"text": value}) + '\n{"text": "good"}\n')
    assert faults(read(path)) == {1: reason}


def test_chat_messages_are_refused_with_the_way_to_train_on_them(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", json.dumps({"text": [{"role": "user", "content": "hi"}]}) + "\n")
    [(_, fault)] = read(path)
    assert not isinstance(fault, dict)
    assert 'task.kind = "chat"' in fault.next_step


def test_a_missing_key_is_no_value_and_an_empty_text_is_a_text(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "a"}\n{"body": "b"}\n{"text": ""}\n')
    assert faults(read(path)) == {2: "column 'text' is empty"}
    assert texts(read(path)) == ["a", ""]
    assert faults(read(path, {"text": Kind.WORDS})) == dict.fromkeys((2, 3), "column 'text' is empty")


@pytest.mark.parametrize("count", [1, 999, 1000, 2000])
def test_a_key_that_no_object_has_is_an_error_that_lists_the_keys(tmp_path: Path, count: int) -> None:
    path = written(tmp_path / "a.jsonl", '{"body": "b", "n": 1}\n' * count)
    with pytest.raises(DataError, match=r"a\.jsonl has no column 'text'") as missing:
        read(path)
    assert missing.value.why == "its columns are: 'body', 'n'"
    assert "text_column" in missing.value.next_step


def test_of_some_rows_alone_nobody_can_say_that_a_key_is_missing(tmp_path: Path) -> None:
    """A stream reads a part of the rows at a time: one of its parts may lack a key that others have."""
    path = written(tmp_path / "a.jsonl", '{"text": "a"}\n{"body": "b"}\n')
    assert faults(read(path, take=lambda number: number == 2)) == {2: "column 'text' is empty"}


def test_only_the_named_columns_must_make_sense(tmp_path: Path) -> None:
    lines = [
        {"text": "a"},
        {"text": "b", "other": [1]},
        {"text": "c", "other": {"x": None}},
        {"text": "d", "other": "x"},
    ]
    assert texts(read(write_table(tmp_path / "a.jsonl", lines))) == list("abcd")


def test_lone_surrogates_are_replaced_and_counted(tmp_path: Path) -> None:
    path, tally = written(tmp_path / "a.jsonl", '{"text": "a\\ud800b \\ud83d\\ude00"}\n'), Tally(0.0)
    assert texts(read(path, tally=tally)) == ["a\ufffdb \U0001f600"]
    assert (tally.replaced, tally.replaced_first) == (1, "a.jsonl, row 1")


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "a\u2028b\x85c"}\r\n{"text": "d"}\r\n')
    assert texts(read(path)) == ["a\u2028b\x85c", "d"]


@pytest.mark.parametrize("raw", ['[{"text": "a"},', '[{"text": "a"} {"text": "b"}]', '[{"text": "a"}]x'])
def test_a_broken_array_is_an_error(tmp_path: Path, raw: str) -> None:
    with pytest.raises(BrokenOff) as broken:
        read(written(tmp_path / "a.json", raw))
    told = unreadable(broken.value)
    assert told.what == "can't read a.json, at its beginning"
    assert told.why


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda part: st.lists(part) | st.dictionaries(st.text(), part),
        max_leaves=5,
    )
)
@settings(max_examples=100, deadline=None)
def test_every_value_of_json_is_a_text_or_a_fault(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    written(path, json.dumps({"text": value, "other": 1}) + "\n")
    [(_, row)] = read(path)
    if isinstance(value, str):
        assert row == {"text": value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")}
    else:
        assert not isinstance(row, dict)


# Text ----------------------------------------------------------------------------------------------------------------


@given(
    text=st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\r\n\t")),
    longest=st.integers(1, 50),
)
@settings(max_examples=80, deadline=None)
def test_documents_are_the_whole_text_cut_between_characters(
    tmp_path_factory: pytest.TempPathFactory, text: str, longest: int
) -> None:
    path, tally = written(tmp_path_factory.mktemp("text") / "a.txt", "words " * 200 + text), Tally(0.0)
    whole = path.read_bytes().decode()
    found = read(path, tally=tally, longest=longest)
    joined = "".join(texts(found))
    assert joined.replace("\n", "") == whole.replace("\r", "").replace("\n", "")
    assert tally.replaced == 0
    assert [number for number, _ in found] == list(range(1, len(found) + 1))


def test_documents_end_at_line_ends_where_there_are_any(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "".join(f"line {number}\r\n" for number in range(100)))
    found = texts(read(path, longest=50))
    assert all(text.endswith("\n") and "\r" not in text for text in found)
    assert len(found) > 10


# Choosing rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet", "a.jsonl.zst"])
def test_rows_keep_their_numbers_whichever_are_wanted(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path / name, [{"text": f"row {number}", "n": 1} for number in range(1, 1201)])
    some = read(path, take=lambda number: number % 7 == 3)
    assert [number for number, _ in some] == list(range(3, 1201, 7))
    assert texts(some) == [f"row {number}" for number in range(3, 1201, 7)]
    assert read(path, TEXT, take=lambda number: False) == []
