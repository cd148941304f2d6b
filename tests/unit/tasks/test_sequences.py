"""What a peer draws: its own sequences, always the same ones, and nothing that is held out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pytest

from p2ptrain.data.cells import Kind
from p2ptrain.data.stream import SourceSilent, Stream
from p2ptrain.errors import DataError
from p2ptrain.run import PeerId, digest_of
from p2ptrain.tasks import sequences, shard_seed
from p2ptrain.tasks.documents import is_held_out
from p2ptrain.tasks.sequences import Cutter, DrawnSequences, PooledSequences, Sequences, StreamedSequences
from p2ptrain.tasks.tokenizer import ByteTokenizer, Tokens
from tests.unit.data.samples import Listed
from tests.unit.tasks.samples import holds, marked_documents

BYTES = ByteTokenizer()
FRACTION, LENGTH, EVALUATED = 0.3, 24, 20

Make = Callable[[Sequence[str], int], Sequences]


def cutter(seed: int) -> Cutter:
    return Cutter(BYTES, LENGTH, FRACTION, EVALUATED, seed)


def pooled(documents: Sequence[str], seed: int = 1) -> PooledSequences:
    return PooledSequences(list(documents), cutter(seed))


def drawn(documents: Sequence[str], seed: int = 1) -> DrawnSequences:
    return DrawnSequences([{"body": text} for text in documents], "body", cutter(seed))


def streamed(
    documents: Sequence[str | None], seed: int = 1, files: int = 3, wanted: int | None = None
) -> StreamedSequences:
    sources = [Listed(documents[at::files], f"{at}.jsonl", "body", bytes=10_000) for at in range(files)]
    return StreamedSequences(Stream(sources, {"body": Kind.TEXT}, seed, 0.05), "body", cutter(seed), wanted)


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "BUFFERED_SEQUENCES", 8)
    monkeypatch.setattr(sequences, "MIXED_SEQUENCES", 2)


EVERY_KIND = pytest.mark.parametrize("make", [pooled, drawn, streamed])
ADDRESSED = pytest.mark.parametrize("make", [pooled, drawn])
MARKED = marked_documents(40, FRACTION)
NUMBERED = [f"row {number:03d}:" for number in range(240)]
TRAINED = [text for text in NUMBERED if not is_held_out(text, FRACTION)]


def text_of(tokens: Tokens) -> str:
    return "".join(chr(token) if token < 256 else "|" for token in tokens.ravel())


# Every kind --------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_batches_have_their_shape_and_hold_tokens(make: Make) -> None:
    batch = make(MARKED, 1).batch(0, 5)
    assert (batch.shape, batch.dtype) == ((5, LENGTH), np.int32)
    assert set(np.unique(batch)) <= set(range(BYTES.vocab_size))


@EVERY_KIND
def test_nothing_that_is_held_out_is_ever_drawn_and_nothing_else_is_evaluated(make: Make) -> None:
    source = make(MARKED, 1)
    batches = np.concatenate([source.batch(index, 16) for index in range(30)])
    assert holds(batches, "T")
    assert not holds(batches, "H")
    assert holds(source.held_out, "H")
    assert not holds(source.held_out, "T")


@EVERY_KIND
def test_a_document_that_comes_twice_is_on_one_side_both_times(make: Make) -> None:
    source = make(MARKED + MARKED[::-1], 1)
    assert not holds(source.batch(0, 64), "H")
    assert not holds(source.held_out, "T")


@EVERY_KIND
def test_every_peer_evaluates_on_the_same_and_trains_on_its_own(make: Make) -> None:
    one, other = make(MARKED, 1), make(MARKED, 2**127 + 5)
    assert np.array_equal(one.held_out, other.held_out)
    assert one.held_out.shape == (EVALUATED, LENGTH)
    assert not np.array_equal(one.batch(0, 8), other.batch(0, 8))


@EVERY_KIND
def test_the_same_seed_draws_the_same(make: Make) -> None:
    one, other = make(MARKED, 7), make(MARKED, 7)
    assert all(np.array_equal(one.batch(index, 8), other.batch(index, 8)) for index in range(5))


@EVERY_KIND
def test_without_held_out_text_there_is_nothing_to_evaluate(make: Make) -> None:
    with pytest.raises(DataError, match="no document is held out"):
        make([text for text in MARKED if "T" in text], 1)


# Addressed by their index ------------------------------------------------------------------------------------------


@ADDRESSED
def test_a_batch_is_a_function_of_seed_and_index_alone(make: Make) -> None:
    straight, jumping = make(NUMBERED, 1), make(NUMBERED, 1)
    in_order = [straight.batch(index, 4) for index in range(6)]
    jumping.restore(straight.state())
    for index in (5, 0, 3, 3):
        assert np.array_equal(jumping.batch(index, 4), in_order[index])
    assert len({batch.tobytes() for batch in in_order}) == 6


def test_a_pooled_sequence_begins_anywhere_in_the_documents_laid_end_to_end() -> None:
    documents = NUMBERED[:30] + MARKED[:1]
    whole = "".join(f"{text}|" for text in documents if not is_held_out(text, FRACTION))
    starts = [whole.index(text_of(row)) for row in pooled(documents).batch(0, 4000)]
    assert set(starts) == set(range(len(whole) - LENGTH + 1))


def test_too_little_text_is_an_error_that_counts_it() -> None:
    held_out, short = MARKED[0], next(text for text in map(str, range(99)) if not is_held_out(text, FRACTION))
    with pytest.raises(DataError, match="too little text") as little:
        pooled([held_out, short])
    assert little.value.why.startswith(f"there are {len(short) + 1} tokens")


def test_a_drawn_sequence_is_packed_from_whole_rows_and_a_part_of_the_last() -> None:
    rows = {f"{text}|" for text in TRAINED}
    for row in drawn([*NUMBERED, ""]).batch(0, 200):
        *whole, last = re.findall(r"[^|]*\||[^|]+", text_of(row))
        assert set(whole) <= rows
        assert any(last in text for text in rows)


def test_drawing_comes_to_every_row_and_to_every_place_in_a_long_one() -> None:
    letters = "".join(map(chr, range(160, 256)))
    long = next(text for n in range(99) if not is_held_out(text := f"{n}{letters}", FRACTION))
    seen = text_of(drawn([*NUMBERED, *[long] * 20]).batch(0, 1000))
    assert all(text in seen for text in TRAINED)
    assert {chr(byte) for byte in long.encode()} <= set(seen)


@pytest.mark.parametrize("rows", [["", MARKED[0]], [MARKED[0]]])
def test_a_table_with_nothing_to_train_on_is_an_error(rows: list[str]) -> None:
    with pytest.raises(DataError, match="too little text"):
        drawn(rows).batch(0, 1)


def test_a_table_without_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="the dataset is empty"):
        drawn([])


# Streams -----------------------------------------------------------------------------------------------------------


def rows_in(batches: Sequence[Tokens]) -> list[int]:
    return [int(number) for batch in batches for row in batch for number in re.findall(r"row (\d{3}):", text_of(row))]


def test_a_stream_is_read_from_end_to_end_and_then_again() -> None:
    source = streamed(NUMBERED)
    epoch = len(TRAINED) * 9 // LENGTH
    seen = rows_in([source.batch(index, epoch) for index in range(5)])
    assert {NUMBERED[number] for number in seen} <= set(TRAINED)
    assert len(set(seen)) > 0.95 * len(TRAINED), "a row that is cut at a sequence's end is not recognized"
    assert max(map(seen.count, seen)) <= 6


@pytest.mark.parametrize("files", [1, 3, 100])
def test_peers_read_a_stream_in_different_orders(files: int) -> None:
    begins = {tuple(rows_in([streamed(NUMBERED, seed, files).batch(0, 4)])) for seed in range(6)}
    assert len(begins) == 6


def test_after_a_restart_a_stream_goes_on_where_it_was() -> None:
    source = streamed(NUMBERED)
    before = rows_in([source.batch(index, 8) for index in range(3)])
    state, read = source.state(), streamed(NUMBERED)
    read.restore(state)
    after = rows_in([read.batch(index, 8) for index in range(3)])
    assert after
    assert not set(before) & set(after), "in one pass no row comes twice"


@pytest.mark.parametrize("state", [None, {"shard_idx": 3}, {"epoch": 0, "turn": 10**9, "row": 4, "used": 9}, [1]])
def test_a_place_in_other_data_is_no_place_here(state: object) -> None:
    """The volunteer has read files of their own before, or the dataset had more files, or p2ptrain was an older one."""
    source = streamed(NUMBERED)
    source.restore(state)
    assert source.batch(0, 4).shape == (4, LENGTH)


def test_what_was_prepared_can_be_had_while_the_source_is_silent() -> None:
    source, straight = streamed(NUMBERED, files=1), streamed(NUMBERED, files=1)
    [rows] = source._stream.sources
    source.prepare(12)
    straight.prepare(12)
    cast(Listed, rows).fails = {number: TimeoutError() for number in range(1, 241)}
    assert [text_of(source.batch(index, 4)) for index in range(3)] == [text_of(straight.batch(i, 4)) for i in range(3)]
    for _ in range(3):
        with pytest.raises(SourceSilent):
            source.batch(3, 4)
    cast(Listed, rows).fails.clear()
    assert text_of(source.batch(3, 4)) == text_of(straight.batch(3, 4)), "nothing is lost by that"


def test_three_peers_train_on_different_rows_of_a_stream() -> None:
    """85 % of their rows were the same ones when only shards were shuffled."""
    rows = [f"row {number:03d}:" for number in range(1000)]
    for files in (1, 3, 100):
        peers = [set(rows_in([streamed(rows, seed, files).batch(0, 60)])) for seed in range(9)]
        shared = [len(one & other) / len(one) for one, other in itertools.combinations(peers, 2)]
        drawn = sum(map(len, peers)) / len(peers) / (1 - FRACTION) / len(rows)
        assert 0.15 < drawn < 0.3
        assert np.mean(shared) == pytest.approx(drawn, rel=0.3)


def test_an_empty_stream_is_an_error() -> None:
    with pytest.raises(DataError, match="no document is held out"):
        streamed([""], files=1)


def test_a_stream_with_nothing_to_train_on_is_an_error_after_two_passes() -> None:
    source = streamed([MARKED[0]] * 5, files=1)
    with pytest.raises(DataError, match="too little text") as little:
        source.batch(0, 1)
    assert little.value.why == "the whole stream was read, and all of it is empty or held out"


def test_a_very_short_stream_is_ready_after_the_passes_that_one_batch_needs() -> None:
    """It was read hundreds of times, to fill a buffer with copies."""
    source = streamed([TRAINED[0], *set(NUMBERED) - set(TRAINED)], files=1)
    source.prepare(3)
    assert source.state()["epoch"] == 3 * LENGTH // (len(TRAINED[0]) + 1) - 1  # the last one is not over


def test_what_a_small_stream_means_is_told() -> None:
    assert streamed(NUMBERED, wanted=29_999).tally.notes == []
    [note] = streamed(NUMBERED, wanted=30_001).tally.notes
    assert note == (
        "the stream is small: it has about 30.0 kB, and a peer reads 30,001 tokens in this run. So peers read the same "
        "rows"
    )


# Seeds -------------------------------------------------------------------------------------------------------------


def test_every_peer_of_every_run_has_a_seed_of_its_own() -> None:
    runs = [digest_of(b"one"), digest_of(b"other")]
    seeds = {shard_seed(run, PeerId(peer)) for run in runs for peer in ("a", "b", "c")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**128 for seed in seeds)
    assert shard_seed(runs[0], PeerId("a")) in seeds
