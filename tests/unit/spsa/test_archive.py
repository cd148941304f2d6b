"""Logs and cuts come back from a disk as they were said, and what a disk has changed does not come back at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2ptrain.errors import LedgerError, MalformedError
from p2ptrain.run import Digest
from p2ptrain.spsa import archive as module
from p2ptrain.spsa.archive import Archive, take_cut
from p2ptrain.spsa.logbook import Logbook, Verdict
from p2ptrain.spsa.messages import LogBatch
from p2ptrain.state import Ledger
from p2ptrain.state.logs import CutRow, Log
from tests.unit.diloco.samples import PEERS
from tests.unit.spsa.samples import RUN, Author, book
from tests.unit.spsa.test_logbook import order, talk

Damage = Callable[[bytes], bytes]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def archive(ledger: Ledger) -> Archive:
    return Archive(ledger)


@pytest.fixture
def author() -> Author:
    return Author(PEERS[1])


def restarted(archive: Archive) -> Logbook:
    """What a peer knows that starts with this disk."""
    found = book()
    archive.read_into(found)
    return found


def change(ledger: Ledger, start: int, damage: Damage, log: Log | None = None) -> None:
    """Change the stored batch that begins there, in this log or in all."""
    with ledger._db.write() as db:
        rows = db.execute("SELECT log, author, record FROM batches JOIN logs USING (log) WHERE start = ?", (start,))
        for number, name, record in rows.fetchall():
            if log is None or name == log.author:
                row = (damage(record), number, start)
                db.execute("UPDATE batches SET record = ? WHERE log = ? AND start = ?", row)


def bit_of_byte(at: int, mask: int) -> Damage:
    return lambda record: record[:at] + bytes([record[at] ^ mask]) + record[at + 1 :]


def test_what_was_kept_comes_back(ledger: Ledger, archive: Archive, author: Author) -> None:
    said, other = talk(author, 3, 2, 4), Author(PEERS[2], session=7)
    archive.keep([*said[:2], *talk(other, 5)])
    archive.keep(said[2:])
    found = restarted(Archive(ledger))
    assert found.standing() == {author.log: 9, other.log: 5}
    assert found.last_words(author.log, 9) == said[2].digest
    assert list(archive.batches(author.log)) == said
    assert found.digest() == book(*said, *other.batches).digest()


def test_batches_are_read_from_the_one_that_holds_a_record(
    archive: Archive, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)
    said = talk(author, 3, 2, 4, 1, 1)
    archive.keep(said)
    expected = {0: 0, 2: 0, 3: 1, 4: 1, 5: 2, 9: 3, 10: 4, 11: 5, 99: 5}
    for start, place in expected.items():
        assert list(archive.batches(author.log, start)) == said[place:], start
    assert archive.batch_at(author.log, 5) == said[2]


def test_what_does_not_continue_its_log_is_not_kept_silently(archive: Archive, author: Author) -> None:
    first, second = talk(author, 3, 2)
    with pytest.raises(LedgerError, match="do not continue"):
        archive.keep([second])
    archive.keep([first])
    with pytest.raises(LedgerError, match="do not continue"):
        archive.keep([first])


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        pytest.param(bit_of_byte(5, 2), 1, id="another code"),
        pytest.param(bit_of_byte(5, 129), 1, id="a code that there is none of"),
        pytest.param(bit_of_byte(4, 1), 1, id="another clock"),
        pytest.param(bit_of_byte(-1, 1), 1, id="another signature"),
        pytest.param(lambda record: record[:-1], 1, id="a byte less"),
        pytest.param(lambda record: record + b"0", 1, id="a byte more"),
        pytest.param(lambda record: b"", 1, id="nothing"),
        pytest.param(bit_of_byte(5, 129), 0, id="the first batch"),
        pytest.param(bit_of_byte(5, 129), 2, id="the last batch"),
    ],
)
def test_what_a_disk_has_changed_is_dropped_from_there_on_and_can_be_pulled_again(
    ledger: Ledger, archive: Archive, author: Author, damage: Damage, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    said, other = talk(author, 3, 2, 4), talk(Author(PEERS[2]), 3)
    archive.keep([*said, *other])
    start = said[place].start
    change(ledger, start, damage, author.log)
    found = restarted(archive)
    assert f"a log of {PEERS[1][-6:]} is damaged from record {start} on" in caplog.text
    assert found.standing() == ({author.log: start} if start else {}) | {other[0].log: 3}
    assert ledger.logs.lengths() == found.lengths()
    for batch in said[place:]:
        assert found.judge(batch) is Verdict.NEXT
        found.append(batch)
    archive.keep(said[place:])
    assert restarted(archive).standing() == {author.log: 9, other[0].log: 3}


@pytest.mark.parametrize(("column", "value"), [("stop", 4), ("stop", 6), ("start", 2), ("start", 4)])
def test_a_place_that_a_disk_has_changed_counts_as_damage(
    ledger: Ledger, archive: Archive, author: Author, column: str, value: int
) -> None:
    said = talk(author, 3, 2, 4)
    archive.keep(said)
    with ledger._db.write() as db:
        db.execute(f"UPDATE batches SET {column} = ? WHERE start = 3", (value,))
    found = restarted(archive)
    assert found.standing() == {author.log: 3}
    archive.keep(said[1:])
    assert restarted(archive).standing() == {author.log: 9}


def test_a_log_that_is_whole_is_read_without_a_word(
    archive: Archive, author: Author, caplog: pytest.LogCaptureFixture
) -> None:
    archive.keep(talk(author, 3, 2))
    restarted(archive)
    assert not caplog.records


# Cuts ----------------------------------------------------------------------------------------------------------------


def test_what_lies_beyond_a_cut_stays_on_disk_after_a_restart(
    archive: Archive, author: Author, caplog: pytest.LogCaptureFixture
) -> None:
    said = talk(author, 3, 2, 4)
    archive.keep(said)
    archive.keep_cut(order(author, kept=4))
    found = restarted(archive)
    assert found.standing() == {author.log: 4}
    assert found.lengths() == {author.log: 9}
    assert found.judge(author.say(1)) is Verdict.CUT
    assert list(archive.batches(author.log)) == said
    assert not caplog.records


def test_proofs_come_back_and_the_lowest_cut_holds(archive: Archive, author: Author) -> None:
    said = talk(author, 3, 2, 4)
    archive.keep(said)
    for place in (2, 1):
        proof = book(*said).proof(author.say_again(place, 9), said[place])
        archive.keep_cut(proof)
        archive.keep_cut(proof)
        assert restarted(archive).standing() == {author.log: said[place].start}
    assert len(archive.cuts()) == 2


def test_a_cut_that_a_disk_has_changed_is_told_of_and_the_others_hold(
    ledger: Ledger, archive: Archive, author: Author, caplog: pytest.LogCaptureFixture
) -> None:
    archive.keep(talk(author, 3, 2))
    archive.keep_cut(order(author, kept=4))
    ledger.logs.add_cut(CutRow(author.log, 0, order(author, kept=1).encoded[:-1]))
    assert restarted(archive).standing() == {author.log: 4}
    assert "a cut in the ledger can't be used" in caplog.text


def test_a_cut_takes_effect_once_whichever_it_is(author: Author) -> None:
    said = talk(author, 3, 2)
    found = book(*said)
    proof, revocation = found.proof(author.say_again(1, 9), said[1]), order(author, kept=1)
    for cut, left in ((proof, 3), (revocation, 1)):
        assert take_cut(found, cut.encoded) == cut
        assert take_cut(found, cut.encoded) is None
        assert found.standing() == {author.log: left}


def test_a_proof_about_nobody_of_the_run_changes_nothing(author: Author) -> None:
    """Anybody can invent authors, and have them contradict themselves."""
    said = talk(author, 3, 2)
    found = book(*said)
    proof = found.proof(author.say_again(1, 9), said[1]).encoded
    assert take_cut(found, proof, knows=lambda name: name != author.log.author) is None
    assert found.standing() == {author.log: 5}
    assert take_cut(found, proof, knows=lambda name: name == author.log.author) is not None


def test_what_is_no_cut_of_this_run_is_refused(author: Author) -> None:
    said = talk(author, 3, 2)
    elsewhere = Author(PEERS[1], run=Digest(b"x" * 32))
    theirs = book(*talk(elsewhere, 3), run=Digest(b"x" * 32)).proof(elsewhere.say_again(0, 9), elsewhere.batches[0])
    found = book(*said)
    for record in (b"", b"rubbish", said[0].encoded, theirs.encoded, order(author, author=PEERS[2]).encoded):
        with pytest.raises(MalformedError):
            take_cut(found, record)
    assert found.standing() == {author.log: 5}


# Pieces --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "stop", "places"),
    [(0, 9, (0, 3)), (0, 3, (0, 1)), (2, 4, (0, 2)), (3, 5, (1, 2)), (4, 6, (1, 3)), (5, 9, (2, 3)), (8, 9, (2, 3))],
)
def test_pieces_are_the_batches_that_hold_the_records(
    archive: Archive, author: Author, start: int, stop: int, places: tuple[int, int]
) -> None:
    said = talk(author, 3, 2, 4)
    archive.keep(said)
    found = list(archive.pieces(author.log, start, stop))
    assert [(piece.start, piece.codes, piece.clock) for piece in found] == [
        (batch.start, batch.codes, batch.clock) for batch in said[slice(*places)]
    ]


@pytest.mark.parametrize(("start", "stop", "missing"), [(0, 10, "9 to 10"), (9, 12, "9 to 12"), (11, 12, "11 to 12")])
def test_records_that_are_missing_are_named(
    archive: Archive, author: Author, start: int, stop: int, missing: str
) -> None:
    archive.keep(talk(author, 3, 2, 4))
    with pytest.raises(LedgerError, match=f"records {missing} of a log of {PEERS[1][-6:]} are missing"):
        list(archive.pieces(author.log, start, stop))


def test_records_of_a_log_that_is_not_here_are_missing(archive: Archive, author: Author) -> None:
    with pytest.raises(LedgerError, match="records 0 to 1 "):
        list(archive.pieces(author.log, 0, 1))


def test_a_batch_that_can_not_be_read_any_more_is_no_piece(ledger: Ledger, archive: Archive, author: Author) -> None:
    archive.keep(talk(author, 3, 2))
    change(ledger, 3, lambda record: b"")
    with pytest.raises(LedgerError, match=r"records 3 to 5 of a log of \w+ are damaged"):
        list(archive.pieces(author.log, 0, 5))


def test_a_batch_is_what_its_author_signed(archive: Archive, author: Author) -> None:
    archive.keep(talk(author, 3))
    [found] = archive.batches(author.log)
    assert isinstance(found, LogBatch)
    assert found.follows(RUN, Digest(bytes(32)))
