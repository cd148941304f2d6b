"""`p2ptrain new` writes a spec to start from."""

from __future__ import annotations

import io
import tomllib
from pathlib import Path

from p2ptrain.run import load_spec, parse_spec
from tests.unit.cli.conftest import Program


def test_new_writes_a_spec_that_loads(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    ended = program("new", str(path), "--name", "ours")
    assert ended.code == 0
    assert f"p2ptrain peer {path}" in ended.out
    assert load_spec(str(path)).run.name == "ours"


def test_new_prints_the_same_spec_to_standard_output(program: Program, tmp_path: Path) -> None:
    printed = program("new").out
    program("new", str(tmp_path / "run.toml"))
    assert (tmp_path / "run.toml").read_text() == printed
    assert tomllib.load(io.BytesIO(printed.encode()))["run"] == {"name": "my-run"}
    assert parse_spec(printed, "printed").run.name == "my-run"


def test_new_never_overwrites(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("precious")
    ended = program("new", str(path))
    assert ended.code == 3
    assert f"can't write {path}" in ended.errors
    assert "File exists" in ended.errors
    assert path.read_text() == "precious"


def test_new_says_which_names_a_run_may_have(program: Program, tmp_path: Path) -> None:
    ended = program("new", str(tmp_path / "run.toml"), "--name", 'Bad "Name"')
    assert ended.code == 3
    assert "run.name: found 'Bad \"Name\"'" in ended.errors
    assert not (tmp_path / "run.toml").exists()
