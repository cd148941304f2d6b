"""What the hub, its cache and folders say of a model or dataset, and that nobody waits for it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCardData, constants, hf_hub_download
from huggingface_hub.hf_api import ModelInfo

from p2ptrain.data.library import table_sources
from p2ptrain.monitor.events import Part
from p2ptrain.peer import sources
from p2ptrain.peer.sources import (
    LICENCE_LENGTH,
    NO_ANSWER,
    Look,
    Source,
    data_source,
    files_source,
    known_in_time,
    licence_in,
    licence_of,
    pretrained_source,
    tokenizer_of,
    weights_of,
)
from p2ptrain.run.spec import DatasetData
from tests.unit.peer.hub import COMMIT, TABLE, Hub, Repository

NEWER = "f" * 40


def sharded(*parts: str) -> dict[str, bytes]:
    """The index of a model in these parts."""
    index = {"metadata": {}, "weight_map": {f"layer{number}": part for number, part in enumerate(parts)}}
    return {"model.safetensors.index.json": json.dumps(index).encode()}


def model(name: str = "somebody/model", revision: str | None = None) -> Look:
    return pretrained_source(name, revision, name, weights_of)


def tokenizer(name: str = "somebody/model") -> Look:
    return pretrained_source(name, None, name, tokenizer_of)


def dataset(name: str = "somebody/texts", **fields: Any) -> Look:
    return data_source(DatasetData(source="dataset", dataset=name, **fields), ())


def known(look: Look) -> Source:
    return known_in_time({"it": look}, 10.0)["it"]


# The hub -------------------------------------------------------------------------------------------------------------


def test_the_hub_is_asked_for_sizes_licences_and_parameters(hub: Hub) -> None:
    found = known(model(revision="v1"))
    assert found == Source(Part("somebody/model", "hub", 269, licence="apache-2.0"), None, 134)
    assert "GET /api/models/somebody/model/revision/v1" in hub.asked
    assert known(tokenizer()).part == Part("somebody/model", "hub", 50, licence="apache-2.0")


def test_looking_at_a_model_fetches_nothing_of_it(hub: Hub, tmp_path: Path) -> None:
    known_in_time({"model": model(), "tokenizer": tokenizer()}, 30.0)
    assert not [asked for asked in hub.asked if asked.startswith("GET") and "/resolve/" in asked]
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    "parts",
    [
        ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        ("model-00001-of-000163.safetensors", "model-00002-of-000163.safetensors"),
        ("model.safetensors-00001-of-00002.safetensors", "first half.safetensors"),
    ],
)
def test_a_model_in_parts_is_as_large_as_the_parts_that_its_index_names(hub: Hub, parts: tuple[str, ...]) -> None:
    left_over = ["model-00001-of-00002.fp16.safetensors", "model-00001-of-00009.safetensors", "pytorch_model.bin"]
    files = dict.fromkeys((*parts, *left_over), b"12345")
    hub.repositories["models/somebody/large"] = Repository(COMMIT, sharded(*parts, parts[0]) | files)
    assert known(model("somebody/large")).part == Part("somebody/large", "hub", 10)


def test_only_what_is_missing_is_counted_as_a_download(hub: Hub) -> None:
    parts = {f"model-0000{number}-of-00003.safetensors": b" " * number for number in (1, 2, 3)}
    hub.repositories["models/somebody/large"] = Repository(COMMIT, sharded(*parts) | parts)
    hf_hub_download("somebody/large", "model-00002-of-00003.safetensors")
    assert known(model("somebody/large")).part == Part("somebody/large", "hub", 4)
    for part in parts:
        hf_hub_download("somebody/large", part)
    assert known(model("somebody/large")).part == Part("somebody/large", "cache", 6)


@pytest.mark.parametrize(
    "index", [b"[", b"[]", b"{}", b'{"weight_map": 3}', b'{"weight_map": {"a": [3]}}', b"\xff", b"[" * 99_999]
)
def test_a_malformed_index_is_told_and_ends_nothing(hub: Hub, index: bytes) -> None:
    hub.repositories["models/somebody/model"].files = {"model.safetensors.index.json": index}
    found = known(model())
    assert (found.part.place, found.part.bytes, found.part.licence) == ("hub", None, "apache-2.0")
    assert found.part.unknown == "what the hub answered can't be read"


def test_a_model_that_lacks_a_part_has_no_known_size(hub: Hub) -> None:
    files = sharded("a.safetensors", "b.safetensors") | {"a.safetensors": b"12345"}
    hub.repositories["models/somebody/model"].files = files
    missing = "the hub does not have all files of it"
    assert known(model()).part == Part("somebody/model", "hub", licence="apache-2.0", unknown=missing)
    hub.repositories["models/somebody/model"].files = {"config.json": b"{}"}
    assert known(model()).part.unknown == missing


def test_an_index_that_is_too_large_is_not_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "INDEX_BYTES", 10)
    hub.repositories["models/somebody/model"].files = sharded("a.safetensors")
    assert known(model()).part.unknown == "what the hub answered can't be read"
    assert not [asked for asked in hub.asked if asked.startswith("GET") and "/resolve/" in asked]


def test_a_dataset_is_as_large_as_the_files_that_are_read_of_it(hub: Hub) -> None:
    name, licence = "somebody/texts (train)", "mit, cc0-1.0"
    assert known(dataset()).part == Part(name, "hub", 6 * len(TABLE), streamed=True, licence=licence)
    assert known(dataset(streaming=False)).part == Part(name, "hub", 6 * len(TABLE), licence=licence)
    part = known(dataset(split="train[:10%]", streaming=False)).part
    assert part.bytes == 8 * len(TABLE), "the datasets library prepares all splits"
    some = known(dataset(split="train[:10%]")).part
    assert (some.bytes, some.at_most, some.streamed) == (8 * len(TABLE), True, True)


def test_a_dataset_that_was_prepared_before_is_here_until_the_hub_has_a_newer_one(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import config

    table_sources(DatasetData(source="dataset", dataset="somebody/texts", streaming=False), ["text"])
    prepared = known(dataset(streaming=False)).part
    assert (prepared.place, prepared.bytes) == ("cache", 6 * len(TABLE))
    assert known(dataset()).part.place == "hub"  # streamed, all the same
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        offline.setattr(config, "HF_HUB_OFFLINE", True)
        prepared = known(dataset(streaming=False)).part
        assert (prepared.place, prepared.bytes, prepared.unknown) == ("cache", 6 * len(TABLE), NO_ANSWER)
        assert known(dataset("somebody/other", streaming=False)).part.place == "hub"
    hub.repositories["datasets/somebody/texts"].commit = NEWER
    assert known(dataset(streaming=False)).part.place == "hub"


def test_that_the_hub_knows_no_such_name_or_lets_nobody_in_is_told(hub: Hub) -> None:
    assert known(model("nobody/has-this")).part.unknown == "the hub answered 404"
    assert known(model("no name")).part.unknown == "this is no name on the hub"
    assert known(model(revision="v2")).part.unknown == "the hub answered 404"
    assert known(dataset("nobody/has-this")).part.unknown == "the hub answered 404"
    hub.repositories["models/somebody/model"].gated = True
    found = known(model())
    assert (found.part.licence, found.part.bytes, found.part.unknown) == ("apache-2.0", None, "the hub answered 403")
    hub.repositories["datasets/somebody/texts"].gated = True
    assert known(dataset()).part.unknown == "the hub gives it only to people who have accepted its terms"


def test_a_dataset_that_is_not_safe_says_why(hub: Hub) -> None:
    hub.repositories["datasets/somebody/texts"].files["texts.py"] = b""
    assert known(dataset()).part.unknown == "it has a loading script, a Python file to run"


def test_a_hub_that_keeps_silent_is_not_waited_for(hub: Hub) -> None:
    hub.silent = "/"
    began = time.monotonic()
    found = known_in_time({"model": model(), "data": dataset()}, 0.3)
    assert time.monotonic() - began < 10
    assert [source.part.unknown for source in found.values()] == [NO_ANSWER, NO_ANSWER]
    assert {(source.part.place, source.part.bytes) for source in found.values()} == {("hub", None)}


def test_what_was_found_in_time_is_kept_when_the_rest_is_not(hub: Hub) -> None:
    hub.silent = "/tree/"
    found = known_in_time({"model": model(), "data": dataset()}, 5.0)
    assert (found["model"].part.licence, found["model"].parameters, found["model"].part.bytes) == (
        "apache-2.0",
        134,
        None,
    )
    assert (found["data"].part.licence, found["data"].part.bytes) == ("mit, cc0-1.0", None)
    assert [source.part.unknown for source in found.values()] == [NO_ANSWER, NO_ANSWER]


def test_without_a_network_it_is_said_at_once() -> None:
    began = time.monotonic()
    assert known(dataset()).part == Part("somebody/texts (train)", "hub", streamed=True, unknown=NO_ANSWER)
    assert known(model("somebody/unheard-of")).part == Part("somebody/unheard-of", "hub", unknown=NO_ANSWER)
    assert time.monotonic() - began < 20


def test_a_look_that_takes_too_long_is_left_behind() -> None:
    never = threading.Event()

    def slow() -> Look:
        yield Source(Part("slow", "hub"))
        never.wait(30)
        yield Source(Part("never", "hub"))

    found = known_in_time({"slow": slow(), "quick": iter([Source(Part("a", "hub")), Source(Part("b", "hub"))])}, 0.2)
    never.set()
    assert {key: source.part.what for key, source in found.items()} == {"slow": "slow", "quick": "b"}


# Strangers' words ----------------------------------------------------------------------------------------------------


def test_what_a_card_says_is_one_short_clean_line() -> None:
    fields = {"license": "other", "license_name": "my\x1b[2J\nlicence " + "x" * 10_000}
    told = licence_of(ModelInfo(id="a/b", cardData=fields).card_data or {})
    assert told.startswith("my\ufffd[2J licence x")
    assert len(told) == LICENCE_LENGTH
    nothing: list[Any] = [None, [], ["", None], 0]
    for said in nothing:
        assert licence_of(ModelCardData(license=said)) == ""


@pytest.mark.parametrize("said", [None, "large", -1, 0.5])
def test_a_number_that_is_none_is_unknown(hub: Hub, said: Any) -> None:
    hub.repositories["models/somebody/model"].said = {"safetensors": {"parameters": {}, "total": said}}
    assert known(model()).parameters is None


# Which files are loaded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "loaded"),
    [
        (["model.safetensors", "pytorch_model.bin", "x.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "model-00001-of-00002.safetensors"], ["model.safetensors"]),
        (["model-00001-of-00002.safetensors"], []),
        (["pytorch_model.bin", "tf_model.h5"], ["pytorch_model.bin"]),
        (["config.json"], []),
    ],
)
def test_transformers_choice_of_weights_is_counted(files: list[str], loaded: list[str]) -> None:
    assert weights_of(files, Path) == loaded


def test_a_tokenizer_is_its_own_files() -> None:
    own = ["added_tokens.json", "chat_template.jinja", "merges.txt", "tokenizer.json", "tokenizer.model", "vocab.txt"]
    assert tokenizer_of([*own, "config.json", "model.safetensors", "onnx/tokenizer.json"], Path) == own


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
    found = known(model())
    assert (found.part.place, found.part.bytes, found.part.licence, found.folder) == ("cache", 1000, "mit", cached)
    assert known(tokenizer()).part.bytes == 50
    assert known(model(revision="another-branch")).part.place == "hub"
    assert known(model("somebody/other")).part.place == "hub"
    assert known(model("no name")).part.place == "hub"
    (cached / "model.safetensors").unlink()
    assert known(model()).part.place == "hub"
    assert known(tokenizer()).part.place == "cache"


def test_of_a_model_in_parts_all_have_to_be_in_the_cache(cached: Path) -> None:
    (cached / "model.safetensors").unlink()
    for name, content in sharded("a.safetensors", "b.safetensors").items():
        (cached / name).write_bytes(content)
    (cached / "a.safetensors").write_bytes(b"12345")
    assert known(model()).part.place == "hub"
    (cached / "b.safetensors").write_bytes(b"12345")
    found = known(model())
    assert (found.part.place, found.part.bytes) == ("cache", 10)


def test_a_silent_hub_hides_nothing_that_is_in_the_cache(hub: Hub, cached: Path) -> None:
    hub.silent = "/"
    found = known_in_time({"it": model()}, 0.3)["it"]
    assert (found.part.place, found.part.bytes, found.folder) == ("cache", 1000, cached)


def test_a_newer_commit_on_the_hub_is_not_in_the_cache(hub: Hub, cached: Path) -> None:
    assert known(model()).part.place == "cache"
    hub.repositories["models/somebody/model"].commit = NEWER
    found = known(model())
    assert (found.part.place, found.part.bytes, found.folder) == ("hub", 269, None)


def test_a_folder_says_how_large_it_is(tmp_path: Path) -> None:
    parts = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for name in ("config.json", *parts, "x.py"):
        (tmp_path / name).write_bytes(b"12345")
    assert known(model(str(tmp_path))).part.bytes is None
    for name, content in sharded(*parts).items():
        (tmp_path / name).write_bytes(content)
    found = known(model(str(tmp_path)))
    assert (found.part.place, found.part.bytes, found.part.licence, found.folder) == ("folder", 10, "", tmp_path)


@pytest.mark.usefixtures("own_dataset_cache")
def test_a_folder_of_data_says_how_large_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    found = known(dataset(str(folder))).part
    assert (found.place, found.bytes, found.streamed) == ("folder", None, False)
    assert found.unknown.startswith("The directory at ")
    (folder / "a.jsonl").write_bytes(TABLE)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    found = known(dataset(str(folder))).part
    assert (found.place, found.bytes, found.at_most, found.licence) == ("folder", len(TABLE), False, "mit")


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": "---\ntags:\n- x\nlicense: apache-2.0\n---\n# Model"}, "apache-2.0"),
        ({"README.md": "---\nlicense: other\nlicense_name: 'my own'\n---\n"}, "my own"),
        ({"README.md": "---\nlicense:\n- mit\n- cc0-1.0\n---\n"}, "mit, cc0-1.0"),
        ({"README.md": "license: not in front\n", "LICENSE": "\n   MIT License\n\nCopyright\n"}, "MIT License"),
        ({"README.md": "---\n[\n---\n", "LICENSE": "MIT"}, "MIT"),
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
    found = known(files_source([str(tmp_path / "*.txt")], "--data ")).part
    assert (found.what.startswith("--data "), found.what.endswith(": 2 files"), found.bytes) == (True, True, 10)
    assert known(files_source(["/no/*.csv"])).part == Part("/no/*.csv", "files", unknown="no file matches '/no/*.csv'")
    assert known(files_source(["a\0b"])).part.unknown
