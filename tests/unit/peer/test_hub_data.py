"""A dataset of the hub: downloaded once, streamed, and read again without the hub."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import constants

from p2ptrain.data.cells import Kind
from p2ptrain.data.library import dataset_builder, is_here, stream_sources, table_sources
from p2ptrain.data.stream import REMOTE_HANDS, Stream
from p2ptrain.data.table import Table
from p2ptrain.run.spec import DatasetData
from tests.unit.peer.hub import COMMIT, Hub, Repository

TEXTS = [f"row {number}" for number in range(50)]
COLUMNS = {"text": Kind.TEXT}
WANTED = DatasetData(source="dataset", dataset="somebody/rows", streaming=False)


@pytest.fixture(autouse=True)
def _rows(hub: Hub) -> None:
    lines = "".join(json.dumps({"text": text, "other": None}) + "\n" for text in TEXTS)
    hub.repositories["datasets/somebody/rows"] = Repository(COMMIT, {"train.jsonl": lines.encode()})


def read() -> Table:
    return Table(table_sources(WANTED, COLUMNS), COLUMNS, 0.0)


def test_what_was_downloaded_is_read_again_without_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config

    assert not is_here(dataset_builder(WANTED), WANTED)
    assert [row["text"] for row in read()] == TEXTS
    assert is_here(dataset_builder(WANTED), WANTED)
    hub.repositories.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    assert [row["text"] for row in read()] == TEXTS


def test_a_stream_of_the_hub_comes_to_every_row_and_names_its_file() -> None:
    stream = Stream(stream_sources(WANTED, COLUMNS), COLUMNS, 1, 0.0)
    assert (stream.sources[0].name, stream.hands) == ("somebody/rows/train.jsonl", REMOTE_HANDS)
    assert sorted(stream.row()["text"] for _ in TEXTS) == sorted(TEXTS)
