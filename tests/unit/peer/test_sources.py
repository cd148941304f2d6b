"""What the hub, its cache and folders say of a model or dataset, and that nobody waits for it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.hf_api import DatasetInfo, ModelInfo

from p2ptrain.peer.sources import (
    NO_ANSWER,
    ask_hub,
    at_once,
    dataset_source,
    download_of,
    files_source,
    licence_in,
    model_source,
    repository_of,
    tokenizer_source,
    weights_of,
)
from p2ptrain.run.spec import DatasetData

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = [("config.json", 700), ("model.safetensors", 269_000_000), ("tokenizer.json", 2_000_000), ("x.gguf", 90)]
MODEL = {
    "id": "somebody/model",
    "sha": COMMIT,
    "siblings": [{"rfilename": name, "size": size} for name, size in FILES],
    "cardData": {"license": "apache-2.0"},
    "safetensors": {"parameters": {"BF16": 134_500_000}, "total": 134_500_000},
}
DATASET = {
    "id": "somebody/texts",
    "sha": COMMIT,
    "siblings": [{"rfilename": "a.parquet", "size": 600}, {"rfilename": "b.parquet", "size": 400}],
    "cardData": {"license": ["mit", "cc0-1.0"], "dataset_info": [{"config_name": "small", "download_size": 123}]},
}


# The hub -------------------------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """Answers as the hub's API does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.silent = threading.Event()
        self.asked: list[str] = []


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if "slow" in path:
            self.server.silent.wait(30)
        known: dict[str, Any] = {
            "/api/models/somebody/model": MODEL,
            "/api/models/somebody/model/revision/v1": MODEL,
            "/api/datasets/somebody/texts": DATASET,
        }
        body = json.dumps(known.get(path, {"error": "not found"})).encode()
        self.send_response(200 if path in known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.silent.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_hub_is_asked_for_sizes_licences_and_parameters(hub: Hub) -> None:
    model, data = ("model", "somebody/model", "v1"), ("dataset", "somebody/texts", None)
    answers = ask_hub([model, data, model], 30.0)
    assert hub.asked.count("/api/models/somebody/model/revision/v1") == 1
    found = model_source("somebody/model", "v1", answers)
    assert (found.place, found.bytes, found.licence, found.parameters) == (
        "hub",
        269_000_000,
        "apache-2.0",
        134_500_000,
    )
    texts = dataset_source(DatasetData(source="dataset", dataset="somebody/texts", subset="small"), answers)
    assert (texts.bytes, texts.at_most, texts.licence) == (123, False, "mit, cc0-1.0")
    texts = dataset_source(DatasetData(source="dataset", dataset="somebody/texts"), answers)
    assert (texts.bytes, texts.at_most) == (1000, True)


def test_that_the_hub_knows_no_such_name_is_told(hub: Hub) -> None:
    missing, wrong = ("model", "nobody/has-this", None), ("model", "no name", None)
    assert ask_hub([missing, wrong], 30.0) == {missing: "the hub answered 404", wrong: "this is no name on the hub"}


def test_a_hub_that_keeps_silent_is_not_waited_for(hub: Hub) -> None:
    began = time.monotonic()
    slow = ("model", "somebody/slow", None)
    assert ask_hub([slow], 0.3) == {slow: NO_ANSWER}
    assert time.monotonic() - began < 10
    found = model_source("somebody/slow", None, ask_hub([], 0.3))
    assert (found.place, found.bytes, found.unknown) == ("hub", None, NO_ANSWER)


def test_without_a_network_it_is_said_at_once() -> None:
    question = ("dataset", "somebody/texts", None)
    assert ask_hub([question], 30.0) == {question: NO_ANSWER}
    found = dataset_source(DatasetData(source="dataset", dataset="somebody/texts"), {question: NO_ANSWER})
    assert (found.place, found.unknown) == ("hub", NO_ANSWER)


def test_a_call_that_takes_too_long_is_left_behind() -> None:
    never = threading.Event()
    assert at_once([lambda: 1, lambda: never.wait(30), lambda: 3], 0.2) == [1, None, 3]
    never.set()


def test_what_a_card_says_is_one_short_clean_line() -> None:
    fields = {"license": "other", "license_name": "my\x1b[2J\nlicence " + "x" * 10_000}
    told = repository_of(ModelInfo(id="a/b", cardData=fields)).licence
    assert told.startswith("my\ufffd[2J licence x")
    assert len(told) == 40
    for nothing in (None, [], ["", None], 0):
        assert repository_of(ModelInfo(id="a/b", cardData={"license": nothing})).licence == ""


@pytest.mark.parametrize("info", [None, {}, "text", [3], {"download_size": "much"}, [{"config_name": "other"}]])
def test_a_card_without_a_size_tells_none(info: Any) -> None:
    assert download_of(repository_of(DatasetInfo(id="a/b", cardData={"dataset_info": info})).card, None) is None


# Which files are loaded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "loaded"),
    [
        (["model.safetensors", "pytorch_model.bin", "x.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "model-00001-of-00002.safetensors"], ["model.safetensors"]),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None),
        (["model-00001-of-00002.safetensors"], []),
        (["pytorch_model.bin", "tf_model.h5"], ["pytorch_model.bin"]),
        (["config.json"], []),
    ],
)
def test_transformers_choice_of_weights_is_counted(files: list[str], loaded: list[str] | None) -> None:
    assert weights_of(dict.fromkeys(files, 1)) == (files if loaded is None else loaded)


def test_a_size_that_the_hub_does_not_say_is_unknown() -> None:
    for said in (None, "large", -1, 0.5):
        files = [{"rfilename": "model.safetensors", "size": said}]
        told = repository_of(ModelInfo(id="a/b", siblings=files, safetensors={"parameters": {}, "total": said}))
        found = model_source("a/b", None, {("model", "a/b", None): told})
        assert (found.bytes, found.parameters) == (None, None)


# This machine --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with one model in it, in its own layout; its snapshot."""
    repository = tmp_path / "hub" / "models--somebody--model"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name, size in (("config.json", 2), ("model.safetensors", 1000), ("tokenizer.json", 50)):
        (snapshot / name).write_bytes(b" " * size)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


def test_what_is_in_the_cache_is_told_without_the_hub(cached: Path) -> None:
    found = model_source("somebody/model", None, {})
    assert (found.place, found.bytes, found.licence, found.folder) == ("cache", 1000, "mit", cached)
    assert tokenizer_source("somebody/model", {}).bytes == 50
    assert model_source("somebody/model", "another-branch", {}).place == "hub"
    assert model_source("somebody/other", None, {}).place == "hub"
    assert model_source("no name", None, {}).place == "hub"
    (cached / "model.safetensors").unlink()
    assert model_source("somebody/model", None, {}).place == "hub"
    assert tokenizer_source("somebody/model", {}).place == "cache"


def test_a_newer_commit_on_the_hub_is_not_in_the_cache(cached: Path) -> None:
    question = ("model", "somebody/model", None)
    same = repository_of(ModelInfo(**MODEL))
    newer = repository_of(ModelInfo(**{**MODEL, "sha": "f" * 40}))
    assert model_source("somebody/model", None, {question: same}).place == "cache"
    assert model_source("somebody/model", None, {question: newer}).place == "hub"


def test_a_folder_says_how_large_it_is(tmp_path: Path) -> None:
    for name in ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "x.py"):
        (tmp_path / name).write_bytes(b"12345")
    found = model_source(str(tmp_path), None, {})
    assert (found.place, found.bytes, found.licence, found.folder) == ("folder", 10, "", tmp_path)
    data = dataset_source(DatasetData(source="dataset", dataset=str(tmp_path)), {})
    assert (data.place, data.bytes, data.at_most) == ("folder", 20, True)


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": "---\ntags:\n- x\nlicense: apache-2.0\n---\n# Model"}, "apache-2.0"),
        ({"README.md": "---\nlicense: other\nlicense_name: 'my own'\n---\n"}, "my own"),
        ({"README.md": "license: not in front\n", "LICENSE": "\n   MIT License\n\nCopyright\n"}, "MIT License"),
        ({"LICENSE.md": "# The Licence\x1b[2J\n"}, "The Licence\ufffd[2J"),
        ({"README.md": "---\n" + "license" * 100_000}, ""),
        ({}, ""),
    ],
)
def test_a_folders_licence_is_what_it_says(tmp_path: Path, files: dict[str, str], licence: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert licence_in(tmp_path) == licence


def test_files_are_counted(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("12345")
    assert files_source([str(tmp_path / "*.txt")]) == (2, 10)
    assert files_source([str(tmp_path / "*.csv")]) == f"no file matches '{tmp_path / '*.csv'}'"
    assert isinstance(files_source(["a\0b"]), str)


def test_a_prepared_dataset_is_here_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
    (tmp_path / "somebody___my_texts" / "default" / "0.0.0" / COMMIT).mkdir(parents=True)
    whole = DatasetData(source="dataset", dataset="somebody/MyTexts", streaming=False)
    assert dataset_source(whole, {}).place == "cache"
    assert dataset_source(whole.model_copy(update={"subset": "small"}), {}).place == "hub"
    assert dataset_source(whole.model_copy(update={"streaming": True}), {}).place == "hub"
