"""A dataset of the hub: downloaded once, streamed, and read again without the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from p2ptrain.data.cells import Kind
from p2ptrain.data.library import dataset_builder, is_here, stream_sources, table_sources
from p2ptrain.data.stream import REMOTE_HANDS, Stream
from p2ptrain.data.table import Table
from p2ptrain.errors import DataError
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


def test_a_copy_of_a_dataset_reads_no_other_files_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from datasets import config

    (tmp_path / "private.jsonl").write_text('{"text": "a secret"}\n')
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {tmp_path}/private.jsonl\n---\n"
    assert len(read()) == len(TEXTS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    copy = Path(snapshot_download("somebody/rows", repo_type="dataset", local_files_only=True))
    (copy / "README.md").write_text(card)
    with pytest.raises(DataError, match="would read files that are not its own"):
        read()


def test_a_stream_of_the_hub_comes_to_every_row_and_names_its_file() -> None:
    stream = Stream(stream_sources(WANTED, COLUMNS), COLUMNS, 1, 0.0)
    assert (stream.sources[0].name, stream.hands) == ("somebody/rows/train.jsonl", REMOTE_HANDS)
    assert sorted(stream.row()["text"] for _ in TEXTS) == sorted(TEXTS)
