"""Paths in the public API: strings and os.PathLike are taken, all else is a UsageError before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import p2ptrain
from p2ptrain.errors import UsageError
from p2ptrain.paths import path_of
from p2ptrain.run import load_spec
from p2ptrain.state import run as module
from p2ptrain.swarm import Identity, Invite
from tests.unit.cli.samples import INVITE
from tests.unit.run.specs import toml_with
from tests.unit.state.samples import SPEC


class Place:
    """A path of somebody else's."""

    def __init__(self, path: str | bytes) -> None:
        self._path = path

    def __fspath__(self) -> Any:
        return self._path


class Started(Exception):
    """The identity is about to be opened: all arguments were taken."""


NO_PATHS: tuple[Any, ...] = (7, b"folder", "", Place(b"folder"), ["folder"], object())
FORMS: tuple[Callable[[Path], Any], ...] = (str, Path, lambda path: Place(str(path)))


def test_a_path_is_a_string_or_path_like() -> None:
    assert [path_of(form(Path("a/b")), "home") for form in FORMS] == [Path("a/b")] * 3


@pytest.mark.parametrize("given", [*NO_PATHS, None], ids=lambda given: type(given).__name__)
def test_what_is_no_path_is_refused_by_its_argument_s_name(given: Any) -> None:
    with pytest.raises(UsageError, match="the argument 'home' must be a path") as refusal:
        path_of(given, "home")
    assert repr(given) in refusal.value.why
    assert "pathlib.Path" in refusal.value.next_step


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `found` and `join` open their identity with; they get no further."""
    heard: list[tuple[Any, ...]] = []

    def open_identity(*given: Any) -> None:
        heard.append(given)
        raise Started

    monkeypatch.setattr(module, "open_identity", open_identity)
    return heard


@pytest.mark.parametrize("form", FORMS, ids=["str", "Path", "PathLike"])
def test_a_run_begins_with_paths_in_any_form(tmp_path: Path, opened: list[Any], form: Callable[[Path], Any]) -> None:
    spec, home, key = tmp_path / "run.toml", tmp_path / "home", tmp_path / "my.key"
    spec.write_text(toml_with())
    with pytest.raises(Started):
        p2ptrain.Run.found(form(spec), home=form(home), identity=form(key))
    with pytest.raises(Started):
        p2ptrain.Run.join(INVITE, home=form(home), identity=form(key))
    assert [given[:2] for given in opened] == [(home, key)] * 2
    with pytest.raises(p2ptrain.errors.StorageError, match="is not a run folder"):
        p2ptrain.Run.resume(form(home))
    assert load_spec(form(spec)) == SPEC


@pytest.mark.parametrize("given", NO_PATHS, ids=lambda given: type(given).__name__)
def test_a_run_does_not_begin_with_anything_else(opened: list[Any], given: Any) -> None:
    invite = Invite.parse(INVITE)
    for begin in (
        lambda: p2ptrain.Run.found(given),
        lambda: p2ptrain.Run.found(SPEC, home=given),
        lambda: p2ptrain.Run.found(SPEC, identity=given),
        lambda: p2ptrain.Run.join(invite, home=given),
        lambda: p2ptrain.Run.join(invite, identity=given),
        lambda: p2ptrain.Run.resume(given),
        lambda: p2ptrain.Run.resume("folder", identity=given),
        lambda: Identity.open(given),
        lambda: Identity.open_next_free(given),
        lambda: load_spec(given),
    ):
        with pytest.raises(UsageError, match="must be a path"):
            begin()
    assert not opened


def test_an_identity_is_opened_by_its_path_in_any_form(tmp_path: Path) -> None:
    names = set()
    for form in FORMS:
        with_path = Identity.open(form(tmp_path / "my.key"))
        names.add(with_path.peer_id)
        assert with_path.path == tmp_path / "my.key"
        with_path.close()
    assert len(names) == 1
    free = Identity.open_next_free(os.fspath(tmp_path / "keys"))
    assert free.path == tmp_path / "keys" / "1.key"
    free.close()
