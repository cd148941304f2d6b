"""Without a home folder that can be written, libraries keep their files elsewhere, and the user is told where."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import pytest

from p2ptrain.caches import moved, own_cache, place_for, provide_caches, why_not

NOWHERE = "/proc/nowhere"
"""Nobody can make a folder there, root neither."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A copy of the environment in which only HOME says where caches are."""
    copy = {name: value for name, value in os.environ.items() if name in ("PATH", "TMPDIR")}
    monkeypatch.setattr(os, "environ", copy)
    return copy


def test_a_cache_that_can_be_written_stays_where_it_is(environment: dict[str, str], tmp_path: Path) -> None:
    environment["HOME"] = str(tmp_path)
    provide_caches(tmp_path / "home")
    assert "XDG_CACHE_HOME" not in environment
    assert not (tmp_path / "home").exists()


def test_caches_go_to_the_home_that_the_volunteer_has_named(
    environment: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environment["HOME"] = NOWHERE
    with caplog.at_level(logging.WARNING, "p2ptrain.caches"):
        provide_caches(tmp_path)
    assert environment["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    assert why_not(tmp_path / "cache") == ""
    assert f"{NOWHERE}/.cache can't be written" in caplog.text
    assert str(tmp_path / "cache") in caplog.text


def test_a_home_in_the_environment_is_a_named_one_also_for_the_doctor(
    environment: dict[str, str], tmp_path: Path
) -> None:
    environment["P2PTRAIN_HOME"] = str(tmp_path)
    assert place_for(None) == tmp_path / "cache"
    assert place_for(tmp_path / "other") == tmp_path / "other" / "cache"


def test_without_a_named_home_they_go_to_a_temporary_folder_of_our_own(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment["HOME"] = NOWHERE
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    provide_caches()
    chosen = Path(environment["XDG_CACHE_HOME"])
    assert chosen.parent == tmp_path
    assert chosen.stat().st_mode & 0o077 == 0
    chosen.chmod(0o777)  # others could put compiled code into it
    assert place_for(None) is None


def test_a_machine_where_nothing_can_be_written_is_left_alone(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment["HOME"] = NOWHERE
    monkeypatch.setattr(tempfile, "tempdir", NOWHERE)
    provide_caches(Path(NOWHERE))
    assert "XDG_CACHE_HOME" not in environment


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    assert own_cache({}) is None
    assert own_cache({"XDG_CACHE_HOME": "/a"}) == Path("/a")


def test_models_that_are_there_stay_in_use_and_what_the_user_has_set_stays_set() -> None:
    own, other = Path("/home/a/.cache"), Path("/b")
    assert moved({}, own, other, is_kept=True)["HF_HOME"] == "/home/a/.cache/huggingface"
    assert "HF_HOME" not in moved({"HF_HOME": "/c"}, own, other, is_kept=True)
    assert "HF_HOME" not in moved({}, own, other, is_kept=False)
    assert "TRITON_CACHE_DIR" not in moved({"TRITON_CACHE_DIR": "/d"}, own, other, is_kept=False)
