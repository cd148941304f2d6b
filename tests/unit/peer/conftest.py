"""Fixtures that look at models and data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfFileSystem, constants

from tests.unit.peer.hub import COMMIT, TABLE, Hub, Repository


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_dataset_cache: None) -> Iterator[Hub]:
    """A hub with a model and a dataset; its cache on this machine is empty."""
    from datasets import config

    files = {"config.json": 7, "model.safetensors": 269, "pytorch_model.bin": 300, "tokenizer.json": 50, "x.gguf": 90}
    with Hub() as server:
        server.repositories["models/somebody/model"] = Repository(
            COMMIT,
            {name: b" " * size for name, size in files.items()},
            {"license": "apache-2.0"},
            {"safetensors": {"parameters": {"BF16": 134}, "total": 134}},
        )
        server.repositories["datasets/somebody/texts"] = Repository(
            COMMIT,
            {"data/train.jsonl": 6 * TABLE, "data/test.jsonl": 2 * TABLE, "README.md": b"", "other/x.bin": b" " * 999},
            {"license": ["mit", "cc0-1.0"]},
        )
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setattr(config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        HfFileSystem.clear_instance_cache()
        yield server


@pytest.fixture(autouse=True)
def logger_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before afterwards."""
    logger = logging.getLogger("p2ptrain")
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    monkeypatch.setattr(logger, "level", logger.level)
