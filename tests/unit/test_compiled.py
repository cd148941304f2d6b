"""Machines where numba can't do all that it wants."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile
from numpy.typing import NDArray

from p2ptrain import compiled as compiling
from p2ptrain.compiled import compiled
from p2ptrain.errors import SpecError


def double(values: NDArray[np.int32]) -> None:
    for at in range(len(values)):
        values[at] *= 2


def doubled(function: Callable[..., Any]) -> list[int]:
    values = np.arange(3, dtype=np.int32)
    function(values)
    return list(values)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged; a warning that was given before is given again."""
    compiling._warn.cache_clear()
    with caplog.at_level(logging.WARNING, "p2ptrain.compiled"):
        yield caplog
    compiling._warn.cache_clear()


def test_without_a_folder_for_compiled_code_it_is_compiled_each_time(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("cannot cache function 'double': no locator available")

    monkeypatch.setattr(compiling, "_Cache", refuse)
    assert [doubled(compiled()(double)) for _ in range(2)] == [[0, 2, 4]] * 2
    assert said.text.count("NUMBA_CACHE_DIR") == 1


def test_compiled_code_that_a_crash_has_damaged_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert doubled(compiled()(double)) == [0, 2, 4]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".nbi", ".nbc"}
    for path in files:
        path.write_bytes(b"")
    assert doubled(compiled()(double)) == [0, 2, 4]
    assert all(path.stat().st_size for path in tmp_path.rglob("*.nbi")), "the next start has no need to compile"


def test_a_full_disk_does_not_end_a_peer_that_compiles(
    said: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(IndexDataCacheFile, "save", refuse)
    assert doubled(compiled()(double)) == [0, 2, 4]
    assert "No space left on device" in said.text


def test_without_numba_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "p2ptrain.compiled")
    with pytest.raises(SpecError, match="numba") as refused:
        importlib.import_module("p2ptrain.compiled")
    assert refused.value.next_step == "pip install --upgrade numba"
