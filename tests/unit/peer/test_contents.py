"""What is told of a run before anything of it is loaded, and the one thing that ends a peer there."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2ptrain.diloco.codecs import CODECS
from p2ptrain.errors import DataError, SpecError
from p2ptrain.monitor.events import Loading, Part
from p2ptrain.peer.contents import check_own_files, check_room, look_at
from p2ptrain.peer.sources import NO_ANSWER
from p2ptrain.run import NO_DIGEST, Genesis, RunSpec, SigningKey
from p2ptrain.tasks import LocalOptions, open_task
from p2ptrain.text import one_line
from tests.unit.monitor.samples import LOADING
from tests.unit.peer.hub import TABLE, Hub
from tests.unit.peer.samples import spec_of
from tests.unit.tasks.samples import TINY_LLAMA, tiny_spec

HERE = LocalOptions(device="cpu")
FOUNDER = SigningKey.generate()


def genesis_of(spec: RunSpec) -> Genesis:
    return Genesis.found(spec, NO_DIGEST, NO_DIGEST, "test", FOUNDER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A model with its tokenizer and licence."""
    path = tmp_path_factory.mktemp("model")
    task = open_task(spec_of(corpus), HERE)
    task.export(dict(task.model.named_parameters()), path)
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return path


def test_a_model_from_scratch_is_counted_and_needs_no_download(corpus: Path) -> None:
    spec = spec_of(corpus)
    model = open_task(spec, HERE).model
    count = sum(parameter.numel() for parameter in model.parameters())
    found = look_at(spec, HERE, None)
    assert (found.parameters, found.trained, found.parameters_at_least) == (count, count, False)
    assert found.model == Part("a new llama", "here", 4 * count)
    assert found.tokenizer == Part("bytes", "here")
    assert found.data.place == "files"
    assert found.data.what.endswith(": 60 files")
    assert found.data.bytes == sum(path.stat().st_size for path in corpus.iterdir())
    genesis = genesis_of(spec)
    told = look_at(spec, HERE, genesis)
    assert (told.run, told.founder) == (genesis.digest.hex(), FOUNDER.peer_id)
    assert (told.state_bytes, told.sent_every) == (8 * count, 2)
    assert told.sent_bytes == CODECS["e3m0"].encoded_bytes(count // 2)


def test_a_run_that_begins_here_fetches_nothing_from_peers(corpus: Path) -> None:
    spec = spec_of(corpus)
    told = look_at(spec, HERE, None)
    assert (told.run, told.founder, told.state_bytes) == ("", "", 0)


def test_a_one_byte_run_sends_bytes_and_keeps_integers(corpus: Path) -> None:
    spec = RunSpec.model_validate({**spec_of(corpus).model_dump(), "method": {"name": "spsa"}})
    told = look_at(spec, HERE, genesis_of(spec))
    assert told.trained is not None
    assert (told.method, told.state_bytes, told.sent_bytes) == ("spsa", 4 * told.trained, None)
    assert told.sends == "sends one byte for each gradient"


def test_a_folder_is_measured_and_says_its_licence(folder: Path) -> None:
    found = look_at(tiny_spec(pretrained=str(folder)), HERE, None)
    weights = (folder / "model.safetensors").stat().st_size
    assert (found.model.place, found.model.bytes, found.model.licence) == ("folder", weights, "apache-2.0")
    assert found.parameters == found.trained
    assert found.data == Part("the standard library of this Python", "here")


def test_the_volunteers_own_folder_and_files_are_told_instead(folder: Path, corpus: Path) -> None:
    spec = tiny_spec(
        pretrained="somebody/model",
        data={"source": "dataset", "dataset": "somebody/texts", "tokenizer": "somebody/model", "sequence_length": 32},
    )
    found = look_at(spec, LocalOptions(device="cpu", model=str(folder), data=(str(corpus / "1*.txt"),)), None)
    assert found.model.what == one_line(f"--model {folder}", 80)
    assert (found.model.place, found.data.place, found.tokenizer) == ("folder", "files", None)
    assert found.data.what.startswith("--data ")
    assert found.data.what.endswith(": 11 files")


def test_without_the_hub_it_is_said_that_sizes_are_unknown() -> None:
    data = {
        "source": "dataset",
        "dataset": "a/texts",
        "subset": "en",
        "tokenizer": "a/tokenizer",
        "sequence_length": 32,
    }
    found = look_at(tiny_spec(pretrained="a/model", model={"revision": "v1"}, data=data), HERE, None)
    assert found.model == Part("a/model@v1", "hub", unknown=NO_ANSWER)
    assert found.tokenizer == Part("a/tokenizer", "hub", unknown=NO_ANSWER)
    assert found.data == Part("a/texts (en, train)", "hub", streamed=True, unknown=NO_ANSWER)
    assert (found.parameters, found.trained) == (None, None)


def test_what_the_hub_says_is_told(hub: Hub) -> None:
    data = {
        "source": "dataset",
        "dataset": "somebody/texts",
        "tokenizer": "somebody/model",
        "sequence_length": 32,
        "streaming": False,
    }
    found = look_at(tiny_spec(pretrained="somebody/model", data=data), HERE, None)
    assert found.model == Part("somebody/model", "hub", 269, licence="apache-2.0")
    assert found.tokenizer is None
    assert found.data == Part("somebody/texts (train)", "hub", 6 * len(TABLE), licence="mit, cc0-1.0")
    assert (found.parameters, found.trained) == (134, None)


def test_of_a_tokenizer_s_files_not_all_may_be_loaded(hub: Hub, folder: Path) -> None:
    def found(name: str) -> Part | None:
        data = {"source": "stdlib-python", "tokenizer": name, "sequence_length": 32}
        return look_at(tiny_spec(data=data, **TINY_LLAMA), HERE, None).tokenizer

    assert found("somebody/model") == Part("somebody/model", "hub", 50, at_most=True, licence="apache-2.0")
    assert found("nobody/has-this") == Part("nobody/has-this", "hub", unknown="the hub answered 404")
    here = found(str(folder))
    assert here is not None
    assert (here.place, here.at_most, here.licence) == ("folder", True, "apache-2.0")


def test_without_its_tokenizer_a_model_has_at_least_so_many_parameters(folder: Path) -> None:
    def found(tokenizer: str, **config: Any) -> Loading:
        data = {"source": "stdlib-python", "tokenizer": tokenizer, "sequence_length": 32}
        return look_at(tiny_spec(data=data, **TINY_LLAMA, **config), HERE, None)

    least = found("a/tokenizer")
    exact = look_at(tiny_spec(), HERE, None)
    assert (least.parameters, least.parameters_at_least, least.model.bytes) == (exact.parameters, True, None)
    assert (found(str(folder)).parameters, found(str(folder)).parameters_at_least) == (exact.parameters, False)
    assert found("a/tokenizer", vocab_size=300).parameters_at_least is False
    assert least.sent_bytes is None


def test_a_run_that_can_not_be_loaded_can_be_told_of(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[")
    found = look_at(tiny_spec(pretrained=str(tmp_path)), HERE, None)
    assert (found.parameters, found.model.place) == (None, "folder")
    assert look_at(tiny_spec("lama"), HERE, None).parameters is None
    name = {"source": "dataset", "dataset": "x" * 300, "tokenizer": "x" * 300}
    assert look_at(tiny_spec(pretrained="y" * 300, data=name), HERE, None).parameters is None
    assert look_at(tiny_spec(data={"source": "files", "paths": ["/no/such"]}), HERE, None).data == Part(
        "/no/such", "files", unknown="no file matches '/no/such'"
    )


def test_a_run_of_ones_own_program_can_not_be_told_of() -> None:
    with pytest.raises(SpecError, match="made by a program of its founder"):
        look_at(RunSpec.custom("sine"), HERE, None)


def test_strangers_words_are_clean_and_short(corpus: Path) -> None:
    fields = spec_of(corpus).model_dump() | {
        "run": {"name": "tiny", "description": "free money\n  code       trusted\x1b[2J" + "x" * 400},
        "model": {"pretrained": "evil\x1b]0;title\x07" + "y" * 200},
        "data": {"source": "files", "paths": ["a\nb"] * 5},
    }
    spec = RunSpec.model_validate(fields)
    told = look_at(spec, HERE, None)
    assert told.description.startswith("free money code trusted\ufffd[2Jxxx")
    assert len(told.description) == 160
    assert told.model.what.startswith("evil\ufffd]0;title\ufffd")
    assert len(told.model.what) == 80
    assert told.data.what == "a b, a b, a b and 2 more"
    assert "\n" not in told.data.unknown


# Room ----------------------------------------------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")


def check(model: Part, data: Part) -> None:
    check_room(replace(LOADING, model=model, tokenizer=None, data=data))


def test_a_download_that_does_not_fit_on_the_disk_ends_a_peer_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2_000, 1_000, 1_000))
    fits, too_large = Part("a/b", "hub", 600), Part("a/b", "hub", 1001)
    here = Part("the standard library", "here")
    check(fits, here)
    with pytest.raises(DataError, match=r"the disk is too small for what the run downloads, e\.g\. a/b") as refused:
        check(too_large, here)
    assert refused.value.why.startswith("1.0 kB would go to ")
    assert "HF_HOME" in refused.value.next_step
    with pytest.raises(DataError, match=r"e\.g\. a/texts"):  # together they are too large
        check(fits, Part("a/texts", "hub", 601))


@pytest.mark.parametrize(
    "data",
    [
        Part("a/texts", "hub", 10**15, streamed=True),
        Part("a/texts", "hub", 10**15, at_most=True),
        Part("a/texts", "hub"),
        Part("a/texts", "cache", 10**15),
        Part("a/texts", "files", 10**15),
    ],
)
def test_what_is_not_surely_downloaded_needs_no_room(data: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2_000, 1_000, 1_000))
    check(Part("a new llama", "here", 10**15), data)


# Files of this machine -----------------------------------------------------------------------------------------------


def test_somebody_else_s_run_reads_no_files_that_the_volunteer_has_not_named(corpus: Path) -> None:
    files = spec_of(corpus)
    with pytest.raises(DataError, match="trains on files of each volunteer's machine") as refusal:
        check_own_files(files, LocalOptions())
    assert f"--data {corpus}" in refusal.value.next_step
    check_own_files(files, LocalOptions(data=("mine.txt",)))


def test_a_dataset_that_is_a_folder_of_this_machine_is_files_of_it(corpus: Path, tmp_path: Path) -> None:
    def spec(name: str) -> RunSpec:
        fields = spec_of(corpus).model_dump(mode="json") | {"data": {"source": "dataset", "dataset": name}}
        return RunSpec.model_validate(fields)

    check_own_files(spec("somebody/texts"), LocalOptions())
    with pytest.raises(DataError, match="trains on files of each volunteer's machine"):
        check_own_files(spec(str(tmp_path)), LocalOptions())
