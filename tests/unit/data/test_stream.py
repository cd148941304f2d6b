"""How the rows of a stream are dealt out to peers."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.data import stream as dealing
from p2ptrain.data.cells import Kind
from p2ptrain.data.library import stream_sources
from p2ptrain.data.source import LibraryRows, Source
from p2ptrain.data.stream import HANDS, Place
from p2ptrain.errors import DataError
from tests.unit.data.samples import NAMES, ROWS, TEXT, Listed, dataset, drawn, listed, stream, stream_of, write_table

# Peers read different rows -------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Path, int], list[Source]]] = {}


def kind(function: Callable[[Path, int], list[Source]]) -> Callable[[Path, int], list[Source]]:
    KINDS[function.__name__] = function
    return function


def written(folder: Path, files: int, ending: str, group: int | None = None) -> list[Source]:
    """A dataset in a folder, read as one of the hub is."""
    data = folder / "dataset"
    data.mkdir()
    for at in range(files):
        write_table(data / f"part-{at}{ending}", [{"text": name, "n": at} for name in NAMES[at::files]], group)
    return stream_sources(dataset(data), TEXT)


@kind
def jsonl(folder: Path, files: int) -> list[Source]:
    return written(folder, files, ".jsonl")


@kind
def gzipped(folder: Path, files: int) -> list[Source]:
    return written(folder, files, ".jsonl.gz")


@kind
def parquet(folder: Path, files: int) -> list[Source]:
    return written(folder, files, ".parquet")


@kind
def parquet_in_groups(folder: Path, files: int) -> list[Source]:
    return written(folder, files, ".parquet", group=5)


@kind
def read_by_the_library(folder: Path, files: int) -> list[Source]:
    """Arrow files."""
    import datasets

    data = folder / "dataset"
    data.mkdir()
    for at in range(files):
        datasets.Dataset.from_dict({"text": NAMES[at::files]}).save_to_disk(folder / "saved")
        (folder / "saved" / "data-00000-of-00001.arrow").rename(data / f"part-{at}.arrow")
    sources = stream_sources(dataset(data), TEXT)
    assert all(isinstance(source, LibraryRows) for source in sources)
    return sources


def shared(peers: Sequence[set[str]]) -> float:
    """The part of its rows that a peer shares with another one: the mean over all pairs."""
    return float(np.mean([len(one & other) / len(one) for one, other in itertools.permutations(peers, 2)]))


@pytest.mark.usefixtures("own_dataset_cache")
@pytest.mark.parametrize("files", [1, 3, 100])
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_peers_share_as_many_rows_as_independent_draws_do(
    tmp_path: Path, make: Callable[[Path, int], list[Source]], files: int
) -> None:
    sources, peers = make(tmp_path, files), 3
    for share in (0.1, 0.25, 0.5):
        rows = [set(drawn(stream(sources, seed), int(share * ROWS))) for seed in range(peers)]
        assert all(len(one) == int(share * ROWS) for one in rows), "in one pass no row comes twice"
        assert shared(rows) == pytest.approx(share, rel=0.4 if files == 100 else 0.25)
    whole = drawn(stream(sources, peers), ROWS)
    assert sorted(whole) == sorted(NAMES), "in one pass every row comes"


@pytest.mark.parametrize("files", [1, 2, 3, 7, 64, 100])
def test_the_mean_over_many_peers_is_that_of_independent_draws(files: int) -> None:
    for share in (0.05, 0.2, 0.6):
        peers = [set(drawn(stream(listed(files), seed), int(share * ROWS))) for seed in range(24)]
        assert shared(peers) == pytest.approx(share, rel=0.25)


def test_files_of_different_lengths_are_read_alike() -> None:
    """A row of a short file is as likely to be read as one of a long file."""
    cuts = [0, 10, 30, 600, ROWS]
    sources = [Listed(NAMES[one:other], f"{one}.jsonl") for one, other in itertools.pairwise(cuts)]
    peers = [drawn(stream(sources, seed), ROWS // 4) for seed in range(40)]
    for one, other in itertools.pairwise(cuts):
        part = set(NAMES[one:other])
        assert np.mean([len(part & set(peer)) / len(part) for peer in peers]) == pytest.approx(0.25, abs=0.05)
    assert shared([set(peer) for peer in peers]) == pytest.approx(0.25, rel=0.15)


def test_at_first_peers_share_one_row_of_a_hand_at_most() -> None:
    """Nobody knows the length of a stream: a peer's first hand is a part of its beginning."""
    peers = [set(drawn(stream(listed(1), seed), 5)) for seed in range(60)]
    assert shared(peers) < 1.5 / HANDS


@given(files=st.integers(1, 5), fast=st.integers(1, ROWS), slow=st.integers(1, ROWS), late=st.integers(0, 2**128 - 1))
@settings(max_examples=20, deadline=None)
def test_who_is_faster_or_joins_later_draws_as_everybody_does(files: int, fast: int, slow: int, late: int) -> None:
    one, other = set(drawn(stream(listed(files), 0), fast)), set(drawn(stream(listed(files), late), slow))
    assert len(one) == fast
    mean = fast * slow / ROWS
    assert late == 0 or abs(len(one & other) - mean) <= 6 * (mean + 4) ** 0.5 + 20


@given(stops=st.lists(st.integers(0, 400), min_size=1, max_size=8), files=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_a_peer_that_was_stopped_reads_what_it_would_have_read(stops: list[int], files: int) -> None:
    straight, read, place = stream(listed(files)), list[str](), Place()
    for count in stops:
        resumed = stream(listed(files), place=place)
        read += drawn(resumed, count)
        place = resumed.place
    assert read == drawn(straight, sum(stops))


def test_a_pass_is_read_in_another_order_than_the_one_before(caplog: pytest.LogCaptureFixture) -> None:
    made = stream(listed(3))
    with caplog.at_level(logging.WARNING):
        passes = [drawn(made, ROWS) for _ in range(3)]
    assert all(sorted(each) == sorted(NAMES) for each in passes)
    assert len({tuple(each) for each in passes}) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "this peer has read the whole stream once (1,200 rows); it begins again"
    ]


def test_every_peer_finds_the_same_rows_at_the_beginning() -> None:
    """What is held out must be the same on all peers."""
    for seed in range(3):
        made = stream(listed(2), seed)
        assert [row["text"] for row in made.in_order(made.tally)] == NAMES[::2] + NAMES[1::2]


@pytest.mark.parametrize("sources", [[], [Listed([])], [Listed([]), Listed([])]])
def test_a_stream_without_rows_is_an_error(sources: list[Source]) -> None:
    with pytest.raises(DataError, match="the dataset is empty"):
        stream(sources).row()


def test_a_stream_that_was_stopped_after_its_last_row_is_not_taken_for_an_empty_one() -> None:
    made = stream(listed(1, NAMES[:5]))
    read = drawn(made, 5)
    again = stream(listed(1, NAMES[:5]), place=made.place)
    assert sorted(drawn(again, 5)) == sorted(read)


# Places --------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 200))
def test_there_are_enough_hands_and_no_more_than_needed(files: int) -> None:
    hands = dealing.hands_of([Listed([])] * files)
    assert HANDS <= files * hands < HANDS + files
    remote = dealing.hands_of([Listed([], is_remote=True)] * files)
    assert remote <= hands


def test_a_place_in_a_stream_that_had_more_files_is_a_place_at_the_beginning() -> None:
    made = stream(listed(1), place=Place(3, 10**6, 17, 5))
    assert (made.place.epoch, made.place.turn, made.place.row) == (3, 0, 0)
    assert sorted(drawn(made, ROWS)) == sorted(NAMES)


def test_only_the_columns_of_the_task_are_there(tmp_path: Path) -> None:
    path = write_table(tmp_path / "rows.jsonl", [{"text": "a", "n": 1, "other": []}])
    assert stream_of(path, columns={"text": Kind.TEXT, "n": Kind.WORDS}).row() == {"text": "a", "n": "1"}
