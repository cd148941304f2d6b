"""How the rows of a stream are dealt out to peers, and what happens if they do not come."""

from __future__ import annotations

import errno
import gzip
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
from p2ptrain.data.stream import HANDS, Place, SourceSilent, Stream
from p2ptrain.errors import DataError
from tests.unit.data.samples import TEXT, Listed, dataset, stream_of, write_table

ROWS = 1200
NAMES = [f"row {number}" for number in range(ROWS)]


def drawn(stream: Stream, count: int) -> list[str]:
    return [stream.row()["text"] for _ in range(count)]


def listed(files: int, rows: Sequence[str] = NAMES) -> list[Listed]:
    return [Listed(rows[at::files], f"{at}.jsonl") for at in range(files)]


def stream(sources: Sequence[Source], seed: int = 1, place: Place | None = None, most: float = 0.05) -> Stream:
    made = Stream(sources, TEXT, seed, most)
    if place is not None:
        made.go_to(place)
    return made


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


# Bad rows ------------------------------------------------------------------------------------------------------------


def cut_row(path: Path, number: int, rows: int = ROWS) -> Path:
    """JSON lines, one of which was cut by a full disk."""
    write_table(path, [{"text": name} for name in NAMES[:rows]])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1][:9] + b"\n"
    path.write_bytes(b"".join(lines))
    return path


def test_a_row_that_was_cut_is_left_out_and_told_and_reading_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = stream_of(cut_row(tmp_path / "rows.jsonl", 451))
    read = drawn(made, ROWS - 1)
    assert sorted(read) == sorted(NAMES[:450] + NAMES[451:])
    assert made.tally.told == ["1 of 1,200 rows left out: not a JSON object (first: rows.jsonl, row 451)"]
    assert [record.getMessage() for record in caplog.records] == [
        "rows.jsonl, row 451 is left out: not a JSON object (1 row so far)"
    ]


def test_resuming_goes_past_a_bad_row(tmp_path: Path) -> None:
    """Wherever the peer was stopped: also just before the bad row, and just after it."""
    path, place, read = cut_row(tmp_path / "rows.jsonl", 7, rows=40), Place(), list[str]()
    for _ in range(39):
        made = stream_of(path)
        made.go_to(place)
        read += drawn(made, 1)
        place = made.place
    assert sorted(read) == sorted(NAMES[:6] + NAMES[7:40])


@pytest.mark.parametrize("broken", ['"cut', '"cut\nb', "1,2", '"cut"off', '"cut\nb\n"c", d'])
def test_bad_rows_of_a_csv_are_met_once_in_a_pass(tmp_path: Path, broken: str) -> None:
    """They are dealt out as other rows are: else the stream would go back to them, and count them in each hand."""
    rows = "".join(f"row {number}\n" for number in range(300))
    path = tmp_path / "rows.csv"
    path.write_text(f"text\n{rows}{broken}\n")
    made = stream_of(path)
    read, places = [], []
    for _ in range(300):
        read += drawn(made, 1)
        places.append(made.place)
    assert sorted(read) == sorted(NAMES[:300])
    made.go_to(made.place)
    drawn(made, 300)
    assert made.tally.left_out.total() <= 2 * (broken.count("\n") + 1)
    assert places == sorted(places, key=lambda place: (place.epoch, place.turn, place.row))


def test_a_key_that_few_rows_lack_does_not_end_a_stream(tmp_path: Path) -> None:
    """All rows of one hand may lack it."""
    lines = [{"text": name} if number % 30 else {"error": "x"} for number, name in enumerate(NAMES[:300])]
    made = stream_of(write_table(tmp_path / "rows.jsonl", lines))
    read = drawn(made, 3 * 290)
    assert set(read) == {name for number, name in enumerate(NAMES[:300]) if number % 30}
    assert [fault.reason for fault in made.tally.left_out] == ["column 'text' is empty"]


def test_too_many_bad_rows_end_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n{"text": null}\n' * 1000)
    made = stream_of(path)
    with pytest.raises(DataError, match="too many rows of the data can't be used") as refused:
        drawn(made, 2000)
    assert "column 'text' is empty (first: rows.jsonl, row " in refused.value.why
    assert made.tally.rows == 1000, "judged when enough was read"


def test_a_stream_of_bad_rows_alone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": 3}\n' * 20)
    with pytest.raises(DataError):
        stream_of(path).row()


# Sources that fail ---------------------------------------------------------------------------------------------------


class Answer(Exception):
    """What libraries for HTTP raise if a server refuses."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered {status}")
        self.response = type("Response", (), {"status_code": status})()


SILENT = [
    ConnectionError("reset"),
    TimeoutError("timed out"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    OSError(errno.ENETUNREACH, "Network is unreachable"),
    OSError(errno.ESTALE, "Stale file handle"),
    Answer(503),
    Answer(429),
]


@pytest.mark.parametrize("error", SILENT, ids=repr)
def test_a_source_that_is_silent_for_a_while_costs_no_row(error: Exception) -> None:
    """The stream goes on exactly where it was."""
    source = Listed(NAMES, fails={400: error, 900: error})
    straight, made = drawn(stream([Listed(NAMES)]), ROWS), stream([source])
    read, silences = list[str](), list[str]()
    while len(read) < ROWS:
        try:
            read += drawn(made, 1)
        except SourceSilent as silent:
            silences.append(str(silent))
    assert len(silences) == 2
    assert all(silence.startswith("can't read listed.jsonl, ") for silence in silences)
    assert read == straight
    assert made.tally.left_out.total() == 0


def test_a_silence_that_lasts_is_a_silence_at_each_look() -> None:
    class Down(Listed):
        is_down = True

        def rows(self, columns, tally, take=lambda number: True):  # type: ignore[no-untyped-def]
            if self.is_down:
                self.fails = {1: TimeoutError("down")}
            return super().rows(columns, tally, take)

    source = Down(NAMES)
    made = stream([source])
    for _ in range(5):
        with pytest.raises(SourceSilent):
            made.row()
    source.is_down = False
    source.fails.clear()
    assert sorted(drawn(made, ROWS)) == sorted(NAMES)


GONE = [
    FileNotFoundError(errno.ENOENT, "No such file or directory"),
    FileNotFoundError("somebody/texts/a.jsonl"),
    PermissionError(errno.EACCES, "Permission denied"),
    Answer(404),
    Answer(403),
]


@pytest.mark.parametrize("is_remote", [False, True])
@pytest.mark.parametrize("error", GONE, ids=repr)
def test_a_source_that_is_gone_is_an_error_that_names_file_and_row(error: Exception, is_remote: bool) -> None:
    made = stream([Listed(NAMES, "shard-7.jsonl", is_remote=is_remote, fails={400: error})])
    with pytest.raises(DataError, match=r"can't read shard-7\.jsonl, after row \d+") as gone:
        drawn(made, ROWS)
    assert gone.value.exit_code == 7
    assert gone.value.why


@pytest.mark.parametrize("error", [type("ReadError", (Exception,), {})("broken"), OSError("odd")], ids=repr)
def test_what_is_unknown_of_a_remote_source_is_asked_again_unless_its_bytes_are_wrong(error: Exception) -> None:
    made = stream([Listed(NAMES, is_remote=True, fails={2: error})])
    if isinstance(error, OSError):
        assert drawn(made, 1)
        assert made.tally.left_out.total() == 1
    else:
        with pytest.raises(SourceSilent):
            made.row()


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flipped(raw: bytes) -> bytes:
    return raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 0xFF]) + raw[len(raw) // 2 + 1 :]


@pytest.mark.parametrize(
    ("ending", "harm"), [(".gz", cut), (".xz", cut), (".xz", flipped), (".bz2", cut), (".zst", cut)]
)
def test_the_rest_of_a_damaged_file_is_passed_over_and_told_once(
    tmp_path: Path, ending: str, harm: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """The stream goes on with its other files, in this pass and in the next."""
    noise = np.random.default_rng(0)
    names = [f"row {number} {noise.bytes(20).hex()}" for number in range(3000)]
    whole = write_table(tmp_path / "whole.jsonl", [{"text": name} for name in names[:600]])
    path = write_table(tmp_path / f"damaged.jsonl{ending}", [{"text": name} for name in names])
    path.write_bytes(harm(path.read_bytes()))
    made = stream_of(whole, path, most_left_out=0.01)
    read = set(drawn(made, 6000))
    assert set(names[:600]) <= read <= set(names)
    [told] = made.tally.told
    assert "damaged from here on: " in told
    assert made.tally.left_out.total() == 1, "each hand comes to the end of the file, and that is one fault"
    warned = [record.getMessage() for record in caplog.records if "damaged from" in record.getMessage()]
    assert len(warned) == 1
    assert warned[0].startswith(f"damaged.jsonl{ending}, row ")


def test_a_shard_that_vanishes_ends_the_stream_with_its_name(tmp_path: Path) -> None:
    paths = [write_table(tmp_path / f"{at}.jsonl", [{"text": name} for name in NAMES[at::3]]) for at in range(3)]
    made = stream_of(*paths)
    drawn(made, 10)
    paths[1].unlink()
    with pytest.raises(DataError, match=r"can't read 1\.jsonl, ") as gone:
        drawn(made, ROWS)
    assert gone.value.why.startswith("No such file or directory")


def test_a_damaged_file_at_the_beginning_is_an_error_before_anything_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    made = stream_of(path)
    with pytest.raises(DataError, match=r"can't read rows\.jsonl\.gz, "):
        list(made.in_order(made.tally))


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
