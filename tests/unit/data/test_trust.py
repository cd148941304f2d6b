"""No code that a dataset names is run, and it reads no files but its own."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from p2ptrain.data.library import stream_sources, table_sources
from p2ptrain.data.source import Source
from p2ptrain.data.tally import Tally
from p2ptrain.data.trust import check_files
from p2ptrain.errors import DataError, P2PTrainError
from tests.unit.data.samples import TEXT, dataset, texts


def opened(name: str | Path, streaming: bool = False) -> list[Source]:
    return (stream_sources if streaming else table_sources)(dataset(name, streaming), TEXT)


def rows_of(sources: list[Source]) -> list[str]:
    return [text for source in sources for text in texts(source.rows(TEXT, Tally(1.0)))]


@pytest.fixture
def folder(own_dataset_cache: None, tmp_path: Path) -> Path:
    path = tmp_path / "texts"
    path.mkdir()
    (path / "train.jsonl").write_text('{"text": "a"}\n')
    return path


@pytest.mark.parametrize("streaming", [True, False])
def test_a_folder_of_data_is_a_dataset(folder: Path, streaming: bool) -> None:
    assert rows_of(opened(folder, streaming)) == ["a"]


def test_a_dataset_with_a_loading_script_is_refused(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "the code has run"
    (folder / "texts.py").write_text(f"open({str(marker)!r}, 'w')\n")
    for name in (folder, folder / "texts.py"):
        with pytest.raises(DataError, match="wants code of its own to be run") as refused:
            opened(name)
        assert "loading script" in refused.value.why
        assert "no code from the network" in refused.value.next_step
    assert not marker.exists()


@pytest.mark.parametrize("name", ["text", "json", "pandas", "parquet"])
def test_a_format_is_no_dataset(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The datasets library would train on whatever lies in the working folder."""
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=f"'{name}' is not a dataset"):
        opened(name)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("pattern", ["{folder}/private/*.txt", "../private/*.txt", "https://example.org/x.txt"])
def test_a_dataset_reads_no_files_but_its_own(folder: Path, tmp_path: Path, pattern: str, streaming: bool) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key.txt").write_text("a secret\n")
    named = pattern.format(folder=tmp_path)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {named}\n---\n")
    with pytest.raises(P2PTrainError, match=r"files that are not its own|can't load the dataset"):
        opened(folder, streaming)


@pytest.mark.parametrize(
    "readme", ["---\nconfigs: [\n---\n", "---\nconfigs: 3\n---\n", "---\n- a\n---\n", "---\n? {\n---\n"]
)
def test_a_malformed_description_is_one_clear_error(folder: Path, readme: str) -> None:
    (folder / "README.md").write_text(readme)
    with contextlib.suppress(DataError):  # some of it the library overlooks
        assert rows_of(opened(folder)) == ["a"]


def test_a_dataset_of_the_hub_reads_files_of_the_hub() -> None:
    check_files("somebody/texts", ["hf://datasets/somebody/texts@0123/a.parquet", "zip://*::hf://datasets/x/y@1/a.zip"])
    for file in ("/etc/passwd", "https://example.org/x.txt", "zip://*.txt::/home/somebody/x.zip", "file:///etc/passwd"):
        with pytest.raises(DataError, match="files that are not its own") as refused:
            check_files("somebody/texts", [file])
        assert file in refused.value.why
