"""Vectors on disk are named by their numbers, read back bit for bit, and never half-written."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from p2ptrain.errors import StorageError
from p2ptrain.run import Digest, digest_of
from p2ptrain.state.files import write_whole
from p2ptrain.state.vectors import Vectors
from tests.unit.state.samples import empty, flip_a_bit, overwrite, truncate

Vector = NDArray[np.float32]
SOME = np.linspace(-1, 1, 1000, dtype=np.float32)
OTHER = np.zeros(50, dtype=np.float32)


def name_of(values: Vector) -> Digest:
    return digest_of(values.tobytes())


@pytest.fixture
def vectors(tmp_path: Path) -> Vectors:
    return Vectors(tmp_path / "vectors")


def file_of(vectors: Vectors, values: Vector = SOME) -> Path:
    vectors.save(name_of(values), values)
    return vectors.path(name_of(values))


# Round trips -------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(values=arrays.arrays(np.uint32, st.integers(1, 300), elements=st.integers(0, 2**32 - 1)))
def test_any_bits_come_back(vectors: Vectors, values: NDArray[np.uint32]) -> None:
    """Also denormal numbers, infinities and every kind of NaN."""
    floats = values.view(np.float32)
    digest = name_of(floats)
    vectors.save(digest, floats)
    assert digest in vectors
    loaded = vectors.load(digest, np.float32)
    assert loaded is not None
    assert loaded.dtype == np.float32
    assert loaded.tobytes() == floats.tobytes()


def test_a_vector_that_is_not_there_is_none(vectors: Vectors) -> None:
    assert name_of(SOME) not in vectors
    assert vectors.load(name_of(SOME), np.float32) is None


def test_a_file_is_plain_safetensors_named_by_its_digest(vectors: Vectors) -> None:
    path = file_of(vectors)
    assert path.name == f"{name_of(SOME).hex()}.safetensors"
    [stored] = load_file(path).values()
    assert stored.tobytes() == SOME.tobytes()


def test_the_source_holds_the_numbers_alone(vectors: Vectors) -> None:
    file_of(vectors)
    source = vectors.source(name_of(SOME))
    assert source(0, SOME.nbytes) == SOME.tobytes()
    assert source(12, 20) == SOME.tobytes()[12:20]


def test_a_vector_that_is_there_is_not_written_again(vectors: Vectors) -> None:
    path = file_of(vectors)
    before = path.stat().st_ino, path.stat().st_mtime_ns
    file_of(vectors)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


# Damage ------------------------------------------------------------------------------------------------------------


def other_numbers(path: Path) -> None:
    save_file({"vector": SOME + 1}, path)


def other_type(path: Path) -> None:
    save_file({"vector": SOME.view(np.int32)}, path)


def other_tensor(path: Path) -> None:
    save_file({"weights": SOME}, path)


HARMS = [truncate, flip_a_bit, empty, overwrite, other_numbers, other_type, other_tensor]


@pytest.mark.parametrize("harm", HARMS)
def test_damage_is_noticed_and_the_file_named(vectors: Vectors, harm: Callable[[Path], None]) -> None:
    path = file_of(vectors)
    harm(path)
    with pytest.raises(StorageError) as told:
        vectors.load(name_of(SOME), np.float32)
    assert told.value.what == f"{path} is damaged"
    assert told.value.why
    assert "delete that file" in told.value.next_step


@pytest.mark.parametrize("harm", HARMS)
def test_saving_a_vector_whose_file_is_damaged_writes_it_anew(vectors: Vectors, harm: Callable[[Path], None]) -> None:
    harm(file_of(vectors))
    vectors.save(name_of(SOME), SOME)
    loaded = vectors.load(name_of(SOME), np.float32)
    assert loaded is not None
    assert loaded.tobytes() == SOME.tobytes()


@contextlib.contextmanager
def files_left(free: int) -> Iterator[None]:
    """This process may open so many files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 64, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("free", [0, 1])
def test_a_vector_is_not_damaged_because_too_many_files_are_open(vectors: Vectors, free: int) -> None:
    file_of(vectors)
    with files_left(free), pytest.raises(OSError, match="Too many open files") as told:
        vectors.load(name_of(SOME), np.float32)
    assert told.value.errno == errno.EMFILE
    assert vectors.load(name_of(SOME), np.float32) is not None


def test_a_vector_is_not_damaged_because_memory_is_short(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    file_of(vectors)

    def is_short(*_: object, **__: object) -> None:
        raise MemoryError("Cannot allocate memory (os error 12)")

    monkeypatch.setattr("p2ptrain.state.vectors.safe_open", is_short)
    with pytest.raises(MemoryError):
        vectors.load(name_of(SOME), np.float32)


# Tidying -----------------------------------------------------------------------------------------------------------


def test_only_what_is_needed_is_kept(vectors: Vectors) -> None:
    file_of(vectors, SOME)
    file_of(vectors, OTHER)
    assert vectors.keep_only({name_of(SOME)}) == [name_of(OTHER)]
    assert name_of(SOME) in vectors
    assert name_of(OTHER) not in vectors
    assert vectors.keep_only({name_of(SOME)}) == []


def test_what_a_crash_left_half_written_is_no_vector_and_is_removed(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_fails(_descriptor: int) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", power_fails)
        with pytest.raises(SystemExit):
            vectors.save(name_of(SOME), SOME)
    folder = file_of(vectors, OTHER).parent
    assert name_of(SOME) not in vectors
    assert len(list(folder.iterdir())) == 2
    vectors.keep_only({name_of(OTHER)})
    assert [path.name for path in folder.iterdir()] == [f"{name_of(OTHER).hex()}.safetensors"]


# Whole or not at all -----------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_file_before_untouched_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"first")

    def is_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if call == "fsync" else Path, call, is_full)
    with pytest.raises(StorageError) as told:
        write_whole(path, b"second")
    assert told.value.what == f"can't write {path}"
    assert told.value.why == "No space left on device"
    assert "free some disk space" in told.value.next_step
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't write") as told:
        write_whole(tmp_path / "nowhere" / "file", b"data")
    assert told.value.why == "No such file or directory"
