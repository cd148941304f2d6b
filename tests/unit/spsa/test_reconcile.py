"""What two peers say to each other to close gaps, and what is made of an answer that is no answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest, PeerId, Record
from p2ptrain.run.keys import peer_id_from_key
from p2ptrain.spsa import reconcile as module
from p2ptrain.spsa.archive import Archive, take_cut
from p2ptrain.spsa.logbook import Logbook
from p2ptrain.spsa.messages import MOST_RECORDS, LogBatch
from p2ptrain.spsa.reconcile import (
    BATCHES_PER_CALL,
    BATCHES_PER_FRAME,
    ENTRIES_PER_FRAME,
    LAST_WORDS,
    BatchesRequest,
    Bundle,
    End,
    _entries,
    _frames,
    ask_batches,
    ask_cuts,
    ask_summary,
    give_cut,
    serve,
)
from p2ptrain.state import Ledger
from p2ptrain.state.logs import Log
from p2ptrain.swarm import Rpc, RpcError, Swarm
from tests.unit.diloco.samples import PEERS
from tests.unit.spsa.samples import RUN, Author, add, book, log_of
from tests.unit.spsa.test_logbook import order, talk
from tests.unit.swarm.conftest import Swarms

ELSEWHERE = Digest(b"x" * 32)
ENTRY = 56

names = st.builds(Log, st.binary(min_size=32, max_size=32).map(peer_id_from_key), st.binary(min_size=8, max_size=8))
ends = st.builds(End, st.integers(0, 2**40 - 1), st.binary(min_size=LAST_WORDS, max_size=LAST_WORDS))


# Summaries -----------------------------------------------------------------------------------------------------------


@given(said=st.dictionaries(names, ends, max_size=20))
def test_a_summary_comes_back(said: dict[Log, End]) -> None:
    found: dict[Log, End] = {}
    for frame in _frames(said):
        found.update(_entries(frame))
    assert found == said


@given(data=st.binary(max_size=3 * ENTRY))
def test_arbitrary_bytes_are_refused_or_name_logs(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        found = _entries(data)
        assert len(found) <= len(data) / ENTRY
        assert all(0 <= end.length < 2**40 and len(end.last) == LAST_WORDS for end in found.values())


def test_a_summary_of_a_part_of_an_entry_or_of_an_endless_log_is_refused() -> None:
    [frame] = _frames({log_of(PEERS[1]): End(5, bytes(LAST_WORDS))})
    assert len(frame) == ENTRY
    for bad in (frame[:-1], frame + b"0", *_frames({log_of(PEERS[1]): End(2**40, bytes(LAST_WORDS))})):
        with pytest.raises(MalformedError):
            _entries(bad)


def test_a_long_summary_takes_several_frames() -> None:
    said = {log_of(PEERS[1], number): End(number, bytes(LAST_WORDS)) for number in range(2 * ENTRIES_PER_FRAME + 1)}
    assert [len(frame) // ENTRY for frame in _frames(said)] == [ENTRIES_PER_FRAME, ENTRIES_PER_FRAME, 1]


# Bundles -------------------------------------------------------------------------------------------------------------


def test_a_bundle_holds_as_many_batches_as_there_may_be_however_long() -> None:
    longest = Author(PEERS[1]).say(*[1] * MOST_RECORDS).encoded
    full = Bundle(batches=(longest,) * BATCHES_PER_FRAME)
    assert Bundle.decode(full.encoded) == full


@pytest.mark.parametrize(
    "batches", [(b"x",) * (BATCHES_PER_FRAME + 1), (bytes(1025),)], ids=["too many", "one that is too long"]
)
def test_a_bundle_that_is_too_large_is_refused(batches: tuple[bytes, ...]) -> None:
    with pytest.raises(MalformedError):
        Bundle.decode(Bundle.model_construct(batches=batches).encoded)


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_are_exactly_a_bundle(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert Bundle.decode(data).encoded == data


# Two peers -----------------------------------------------------------------------------------------------------------


class Told:
    """One peer that asks another one, which has this book and this ledger."""

    def __init__(self, asking: Swarm, answering: Swarm, ledger: Ledger) -> None:
        self._asking, self._answering, self.peer = asking, answering, answering.peer_id
        self.ledger, self.archive, self.book = ledger, Archive(ledger), book()
        self.taken: list[bytes] = []
        answering.run(serve(answering.rpc, RUN, self._ends, ledger.logs, self.archive.cuts, self._take))

    def _ends(self) -> dict[Log, End]:
        standing = self.book.standing()
        return {log: End(count, self.book.last_words(log, count)[:LAST_WORDS]) for log, count in standing.items()}

    def _take(self, record: bytes) -> None:
        take_cut(self.book, record)
        self.taken.append(record)

    def keep(self, batches: list[LogBatch]) -> None:
        add(self.book, batches)
        self.archive.keep(batches)

    def summary(self, run: Digest = RUN) -> dict[Log, End]:
        return self._asking.run(ask_summary(self._asking.rpc, self.peer, run), 20)

    def batches(self, log: Log, start: int = 0, run: Digest = RUN) -> list[LogBatch]:
        async def ask() -> list[LogBatch]:
            async with contextlib.aclosing(ask_batches(self._asking.rpc, self.peer, run, log, start)) as found:
                return [batch async for batch in found]

        return self._asking.run(ask(), 20)

    def cuts(self, run: Digest = RUN) -> list[bytes]:
        async def ask() -> list[bytes]:
            return [record async for record in ask_cuts(self._asking.rpc, self.peer, run)]

        return self._asking.run(ask(), 20)

    def give(self, cut: Any) -> None:
        self._asking.run(give_cut(self._asking.rpc, self.peer, cut), 20)

    def forget(self) -> None:
        with self.ledger._db.write() as db:
            for table in ("batches", "logs", "cuts"):
                db.execute(f"DELETE FROM {table}")
        self.book, self.taken = book(), []


@pytest.fixture(scope="module")
def two_peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    home = tmp_path_factory.mktemp("peers")
    started, ledger = Swarms(home), Ledger(home / "ledger.sqlite")
    try:
        first = started.start()
        yield Told(first, started.join(first), ledger)
    finally:
        started.close()
        ledger.close()


@pytest.fixture
def told(two_peers: Told) -> Told:
    two_peers.forget()
    return two_peers


def test_a_peer_says_how_far_it_has_each_log(told: Told) -> None:
    assert told.summary() == {}
    one, other = talk(Author(PEERS[1]), 3, 2), talk(Author(PEERS[2], session=4), 5)
    told.keep([*one, *other])
    assert told.summary() == {
        one[0].log: End(5, one[1].digest[:LAST_WORDS]),
        other[0].log: End(5, other[0].digest[:LAST_WORDS]),
    }


def test_what_is_missing_is_pulled_from_where_it_begins(told: Told) -> None:
    said = talk(Author(PEERS[1]), 3, 2, 4)
    told.keep(said)
    here = book(*said[:1])
    [(log, end)] = told.summary().items()
    start = here.missing(log, end.length, end.last)
    assert start == 3
    add(here, told.batches(log, start))
    assert here.digest() == told.book.digest()
    assert here.missing(log, end.length, end.last) is None


def test_a_long_log_comes_in_several_frames_and_calls(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, smaller in (("BATCHES_PER_FRAME", 3), ("BATCHES_PER_CALL", 6)):
        monkeypatch.setattr(module, limit, smaller)
    said = talk(Author(PEERS[1]), *[2] * 20)
    told.keep(said)
    asked: list[int] = []
    stream = told._asking.rpc.stream

    def noted(peer: PeerId, method: str, request: BatchesRequest) -> AsyncIterator[bytes]:
        asked.append(request.start)
        return stream(peer, method, request)

    monkeypatch.setattr(told._asking.rpc, "stream", noted)
    assert told.batches(said[0].log) == said
    assert asked == [0, 12, 24, 36]
    assert told.batches(said[0].log, 25) == said[12:]
    assert told.batches(said[0].log, 40) == []


def test_a_call_brings_as_many_batches_as_it_may(told: Told) -> None:
    assert BATCHES_PER_CALL % BATCHES_PER_FRAME == 0, "else the end of a call would look like the end of a log"
    said = talk(Author(PEERS[1]), *[1] * (BATCHES_PER_FRAME + 1))
    told.keep(said)
    assert told.batches(said[0].log) == said


def test_another_run_s_logs_are_not_handed_out(told: Told) -> None:
    author = Author(PEERS[1])
    told.keep(talk(author, 3))
    told.archive.keep_cut(order(author))
    assert told.summary(ELSEWHERE) == {}
    assert told.batches(author.log, run=ELSEWHERE) == []
    assert told.cuts(ELSEWHERE) == []
    with pytest.raises(RpcError, match="the cut is for another run"):
        told.give(order(author, run=ELSEWHERE))


def test_cuts_are_handed_out_and_taken(told: Told) -> None:
    author = Author(PEERS[1])
    said = talk(author, 3, 2)
    told.keep(said)
    proof = told.book.proof(author.say_again(1, 9), said[1])
    told.archive.keep_cut(proof)
    assert told.cuts() == [proof.encoded]
    told.give(order(author, kept=1))
    assert told.taken == [order(author, kept=1).encoded]
    assert told.book.standing() == told_standing(told.summary()) == {author.log: 1}


def told_standing(summary: dict[Log, End]) -> dict[Log, int]:
    return {log: end.length for log, end in summary.items()}


def test_a_cut_that_nobody_signed_is_refused_in_words(told: Told) -> None:
    author = Author(PEERS[1])
    told.keep(talk(author, 3))
    for bad in (order(author, author=PEERS[2]), order(author).model_copy(update={"signature": bytes(64)})):
        with pytest.raises(RpcError) as failure:
            told.give(bad)
        assert failure.value.reason == "refused"
        assert "no owner of this run" in failure.value.detail or "not signed" in failure.value.detail
    assert told.taken == []
    assert told.book.standing() == {author.log: 3}


def test_a_batch_that_a_disk_has_changed_is_not_handed_out(told: Told) -> None:
    said = talk(Author(PEERS[1]), 3, 2)
    told.keep(said)
    with told.ledger._db.write() as db:
        db.execute("UPDATE batches SET record = x'00' WHERE start = 3")
    with pytest.raises(RpcError, match="a batch holds no records"):
        told.batches(said[0].log)


# Faults --------------------------------------------------------------------------------------------------------------


AUTHOR = Author(PEERS[1])
SAID = talk(AUTHOR, 3, 2, 4)
FOREIGN = talk(Author(PEERS[2]), 9)
OF_ANOTHER_START = talk(Author(PEERS[1], session=1), 9)


def answering(frames: Iterable[bytes]) -> Rpc:
    """Every call is answered with these frames."""

    async def stream(_peer: PeerId, _method: str, _request: Record) -> AsyncIterator[bytes]:
        for frame in frames:
            await asyncio.sleep(0)
            yield frame

    return cast(Rpc, SimpleNamespace(stream=stream))


def bundle(*batches: LogBatch) -> bytes:
    return Bundle(batches=tuple(batch.encoded for batch in batches)).encoded


@pytest.mark.parametrize(
    ("start", "frames", "usable"),
    [
        pytest.param(0, [bundle(*FOREIGN)], 0, id="another author's"),
        pytest.param(0, [bundle(SAID[0], *OF_ANOTHER_START)], 1, id="another log of the same author"),
        pytest.param(3, [bundle(SAID[0])], 0, id="from before what was asked for"),
        pytest.param(0, [bundle(SAID[0]), bundle(SAID[0])], 1, id="the same again"),
        pytest.param(0, [bundle(SAID[0], SAID[2], SAID[1])], 2, id="backwards"),
        pytest.param(0, [bundle(SAID[0]), b"rubbish"], 1, id="no bundle"),
        pytest.param(0, [Bundle(batches=(SAID[0].encoded, b"rubbish")).encoded], 1, id="no batch"),
    ],
)
def test_what_was_not_asked_for_is_refused(start: int, frames: list[bytes], usable: int) -> None:
    arrived: list[LogBatch] = []

    async def ask() -> None:
        async for batch in ask_batches(answering(frames), PEERS[1], RUN, AUTHOR.log, start):
            arrived.append(batch)  # noqa: PERF401 - what came before the failure counts

    with pytest.raises(MalformedError):
        asyncio.run(ask())
    assert len(arrived) == usable


def test_a_summary_of_too_many_logs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LOGS", ENTRIES_PER_FRAME)
    said = {log_of(PEERS[1], number): End(number, bytes(LAST_WORDS)) for number in range(ENTRIES_PER_FRAME + 1)}
    with pytest.raises(MalformedError, match="too many logs"):
        asyncio.run(ask_summary(answering(_frames(said)), PEERS[1], RUN))
    del said[log_of(PEERS[1], 0)]
    assert asyncio.run(ask_summary(answering(_frames(said)), PEERS[1], RUN)) == said


def test_logs_that_differ_are_read_from_the_beginning(told: Told) -> None:
    """Both have a version of one log; whoever pulls it has the proof."""
    author = Author(PEERS[1])
    (said,) = talk(author, 2)
    told.keep([said])
    here: Logbook = book(author.say_again(0, 7, 7))
    [(log, end)] = told.summary().items()
    assert here.missing(log, end.length, end.last) == 0
    [theirs] = told.batches(log)
    assert here.convict(here.proof(theirs, author.say_again(0, 7, 7))) == (log, 0)
