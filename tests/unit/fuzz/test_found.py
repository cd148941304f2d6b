"""What the random trials have found, each as a small test."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pytest

from p2ptrain.data.cells import Fault, Kind
from p2ptrain.data.formats import compression_of
from p2ptrain.data.library import stream_sources, table_sources
from p2ptrain.data.rows import read_rows
from p2ptrain.data.stream import Stream
from p2ptrain.data.tally import Tally
from p2ptrain.errors import DataError
from p2ptrain.run.spec import DatasetData
from p2ptrain.tasks.documents import is_held_out
from p2ptrain.tasks.sequences import Cutter, StreamedSequences
from p2ptrain.tasks.tokenizer import ByteTokenizer
from tests.unit.tasks.samples import marked_documents

TEXT = {"text": Kind.TEXT}


@pytest.mark.parametrize("level", [1, 9])
@pytest.mark.parametrize("raw", [b"", b"some text"])
def test_bzip2_is_known_at_every_level_and_without_content(raw: bytes, level: int) -> None:
    assert compression_of(bz2.compress(raw, level)) == "bz2"


def test_lines_of_a_csv_may_end_as_those_of_an_old_mac(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'text,id\rone,1\r"t\rwo",2\r')
    rows = list(read_rows(str(path), path.name, "csv", TEXT, Tally(0.0)))
    assert rows == [(1, {"text": "one"}), (2, {"text": "t\rwo"})]


def test_a_hand_whose_rows_all_lack_a_column_is_no_file_without_that_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ({"text": "one"}, {"id": 2}, {"text": "three"})))
    found = list(read_rows(str(path), path.name, "jsonl", TEXT, Tally(1.0), take=lambda number: number == 2))
    assert [(number, isinstance(row, Fault)) for number, row in found] == [(2, True)]


@pytest.mark.usefixtures("own_dataset_cache")
def test_a_cut_parquet_file_of_a_stream_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"can't read .*rows\.parquet"):
        stream_sources(DatasetData(source="dataset", dataset=str(tmp_path), streaming=True), TEXT)


@pytest.mark.usefixtures("own_dataset_cache")
def test_a_file_that_the_datasets_library_can_not_read_is_told_by_the_cause(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError) as refused:
        table_sources(DatasetData(source="dataset", dataset=str(tmp_path), split="train[:50%]", streaming=False), TEXT)
    assert "Parquet magic bytes not found" in refused.value.why


@pytest.mark.usefixtures("own_dataset_cache")
def test_a_stream_with_less_text_than_a_sequence_is_read_again_and_again(tmp_path: Path) -> None:
    held_out, training = marked_documents(1, 0.2)
    rows = [held_out, training[:10]]
    assert not is_held_out(rows[1], 0.2)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    stream = Stream(stream_sources(DatasetData(source="dataset", dataset=str(tmp_path)), TEXT), TEXT, 1, 0.0)
    sequences = StreamedSequences(stream, "text", Cutter(ByteTokenizer(), 32, 0.2, 1, 1))
    assert sequences.batch(0, 2).shape == (2, 32)
