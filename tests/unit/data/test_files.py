"""Which files a path, a folder or a pattern names."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2ptrain.data.files import find_files, one_format
from p2ptrain.errors import DataError


def write(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return paths


def names(*paths: Path | str) -> list[str]:
    return [path.name for path in find_files([str(path) for path in paths]).files]


def test_paths_folders_and_patterns_are_found_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "b.txt", "a.txt", "sub/deep/c.txt", "d.md")
    assert names(tmp_path) == ["a.txt", "b.txt", "d.md", "c.txt"]
    assert names(tmp_path / "*.txt", tmp_path / "a.txt") == ["a.txt", "b.txt"]
    assert names(tmp_path / "**" / "*.txt") == ["a.txt", "b.txt", "c.txt"]
    assert names(tmp_path / "[ab].txt") == ["a.txt", "b.txt"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names("~/d.md") == ["d.md"]


ODD = [
    "notes [v2].jsonl",
    "100%.txt",
    "a#b?.csv",
    "*.txt",
    "a b  c.txt",
    "~odd.txt",
    "{x}.txt",
    "[a]",
    "ü 你.txt",
    "--x.txt",
]


@pytest.mark.parametrize("name", ODD)
def test_a_path_that_exists_is_that_file_whatever_its_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, name, "other.txt", "v.jsonl", "notes v.jsonl", "a")
    assert names(tmp_path / name) == [name]
    monkeypatch.chdir(tmp_path)
    assert names(name) == [name]


@pytest.mark.parametrize("name", ["data [v2]", "100%", "a#b?", "*"])
def test_a_folder_that_exists_is_that_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, "[1].txt", "2.txt")
    write(tmp_path, "other/3.txt")
    assert names(tmp_path / name) == ["2.txt", "[1].txt"]


def test_hidden_files_and_what_describes_a_folder_are_not_data(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", ".hidden.jsonl", ".git/config", "sub/.cache/x.jsonl", "sub/b.jsonl")
    described = write(
        tmp_path,
        "README.md",
        "readme",
        "LICENSE-2.0.txt",
        "Licence.md",
        "CITATION.cff",
        "dataset_infos.json",
        "sub/README",
    )
    found = find_files([str(tmp_path)])
    assert [path.name for path in found.files] == ["a.jsonl", "b.jsonl"]
    assert sorted(found.passed_over) == sorted(described)
    assert names(tmp_path / "README.md") == ["README.md"], "who names a file wants it"


def test_names_that_only_begin_like_those_are_data(tmp_path: Path) -> None:
    data = ["changelogs.txt", "citation_graph.csv", "license.jsonl", "licenses.txt", "readme_corpus.txt", "readmes"]
    write(tmp_path, *data)
    assert names(tmp_path) == data


def test_a_path_that_matches_nothing_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for pattern in (tmp_path / "*.txt", tmp_path / "gone.txt", tmp_path / "empty", ""):
        with pytest.raises(DataError, match="no file matches") as missing:
            find_files([str(pattern)])
        assert "--data" in missing.value.next_step


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "~nobody-of-this-name/x"])
def test_what_can_be_no_path_is_an_error(name: str) -> None:
    with pytest.raises(DataError):
        find_files([name])


def test_a_link_to_nothing_is_an_error_and_not_less_data(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    for name in (tmp_path, tmp_path / "*.txt", tmp_path / "b.txt"):
        with pytest.raises(DataError):
            find_files([str(name)])


def test_files_of_different_kinds_are_named(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "b.csv", "c.jsonl.gz", "d.txt")
    with pytest.raises(DataError, match="the data files are of different kinds") as mixed:
        one_format(find_files([str(tmp_path)]).files)
    assert mixed.value.why == "2 csv (e.g. a.csv), 1 jsonl (e.g. c.jsonl.gz), 1 text (e.g. d.txt)"
    assert one_format([tmp_path / "a.csv", tmp_path / "b.csv.gz"]) == "csv"
    assert one_format([tmp_path / "a.md", tmp_path / "b.txt", tmp_path / "c"]) == "text"
