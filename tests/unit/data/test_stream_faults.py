"""What a stream does about rows that can't be used, and about sources that fail."""

from __future__ import annotations

import errno
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from p2ptrain.data.stream import Place, SourceSilent
from p2ptrain.errors import DataError
from tests.unit.data.samples import NAMES, ROWS, Listed, drawn, stream, stream_of, write_table

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
