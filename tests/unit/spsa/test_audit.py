"""What a folder of logs and snapshots can prove, and what of it a disk has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import LedgerError, MalformedError, StorageError
from p2ptrain.spsa.audit import Past, audit, check_against
from p2ptrain.spsa.position import Position, total
from p2ptrain.spsa.state import MasterState
from p2ptrain.state import RunFolder
from tests.unit.diloco.samples import PEERS
from tests.unit.spsa.folders import Written
from tests.unit.spsa.samples import Author
from tests.unit.spsa.test_logbook import order

WHOLE = ["genesis", "logs", "marks", *["snapshot"] * 3, *["replay"] * 3]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    made = Written(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    """For tests that leave it so."""
    made = Written(tmp_path_factory.mktemp("home"))
    yield made
    made.close()


def wrong(folder: RunFolder, base: int | None = None) -> list[tuple[str, str]]:
    return [(check.subject, check.found) for check in audit(folder, base) if not check.good]


def position_of(written: Written, *counts: int) -> Position:
    return dict(zip(written.logs, counts, strict=False))


# A folder that is whole ----------------------------------------------------------------------------------------------


def test_a_folder_that_is_whole_agrees_with_itself(written: Written) -> None:
    checks = list(audit(written.folder))
    assert [check.subject for check in checks] == WHOLE
    assert all(check.good for check in checks)
    assert checks[1].found == "3 with 43 records, signed by their authors"
    assert checks[2].found == "1, signed"
    assert written.state_at(written.all).digest.hex() in checks[-1].found


@pytest.mark.parametrize("base", [0, 17, 43])
def test_any_snapshot_may_be_where_a_replay_begins(written: Written, base: int) -> None:
    checks = list(audit(written.folder, base))
    assert [check.subject for check in checks] == WHOLE
    assert all(check.good for check in checks)
    assert checks[-1].found.startswith(f"from {base} records to all that count: 43 records")


def test_a_snapshot_that_there_is_none_of_is_no_beginning(written: Written) -> None:
    with pytest.raises(StorageError, match="no whole snapshot of 5 records") as refusal:
        list(audit(written.folder, 5))
    assert refusal.value.why == "there are whole snapshots of 43, 17, 0 records"


def test_what_is_cut_does_not_count_and_is_named(written: Written) -> None:
    written.archive.keep_cut(order(written.authors[1], kept=11, run=written.folder.run))
    checks = list(audit(written.folder))
    assert all(check.good for check in checks)
    assert checks[1].found.endswith("; 9 of them are cut off")
    left = {**written.all, written.logs[1]: 11}
    assert written.state_at(left).digest.hex() in checks[-1].found
    assert Past(written.folder).book.standing() == left


@settings(max_examples=15)
@given(data=st.data())
def test_every_state_is_found_from_whatever_snapshot_is_nearest(unharmed: Written, data: st.DataObject) -> None:
    position = {log: data.draw(st.integers(0, count)) for log, count in unharmed.all.items()}
    assert Past(unharmed.folder).state_at(position).digest == unharmed.state_at(position).digest


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [b"\x05", b"\x80"], ids=["another code", "a code that there is none of"])
def test_a_changed_record_is_found_and_no_state_is_made_of_it(written: Written, code: bytes) -> None:
    record = written.authors[0].batches[2].stored
    written.execute("UPDATE batches SET record = ? WHERE start = 6", record[:7] + code + record[8:])
    told = f"a log of {PEERS[1][-6:]} is damaged from record 6 on"
    assert wrong(written.folder) == [("logs", told)]
    assert [check.subject for check in audit(written.folder)] == ["genesis", "logs"]
    with pytest.raises(LedgerError, match=told):
        Past(written.folder)
    check = check_against(written.folder, written.base.digest, {})
    assert (check.good, check.found) == (False, told)


def test_a_damaged_snapshot_is_found_and_the_others_are_replayed(written: Written) -> None:
    for position, base in ((written.half, 0), ({}, 43)):
        written.damage(written.state_at(position))
        [*_, (subject, found)] = wrong(written.folder)
        assert subject == "snapshot"
        assert found.startswith(f"{total(position)} records, state ")
        assert "is damaged" in found
        checks = list(audit(written.folder))
        assert checks[-1].good
        assert checks[-1].found.startswith(f"from {base} records to all that count: 43 records")
    assert [records for records, _ in wrong(written.folder)] == ["snapshot", "snapshot"]


def test_a_snapshot_s_manifest_that_is_damaged_is_named(written: Written) -> None:
    written.execute("UPDATE snapshots SET manifest = x'00' WHERE height = 17")
    half = written.state_at(written.half).digest.hex()[:8]
    assert wrong(written.folder) == [("snapshot", f"state {half}: its manifest is damaged")]
    with pytest.raises(StorageError, match="no snapshot of 17 records"):
        Past(written.folder).position_of(17)


def test_a_folder_without_a_whole_snapshot_proves_no_state(written: Written) -> None:
    for position in ({}, written.half, written.all):
        written.damage(written.state_at(position))
    assert [subject for subject, _ in wrong(written.folder)] == [*["snapshot"] * 3, "replay"]
    with pytest.raises(StorageError, match="holds no whole snapshot"):
        Past(written.folder).state_at(written.all)


def test_a_snapshot_that_was_computed_wrongly_is_found(written: Written) -> None:
    honest = written.state_at(position_of(written, 3, 3))
    master = honest.master.copy()
    master[17] += 1
    lie = MasterState(honest.layout, honest.position, master)
    written.snapshots.save(lie)
    text = f"6 records, state {lie.digest.hex()[:8]}: the logs lead to state {honest.digest.hex()[:8]}"
    assert wrong(written.folder) == [("replay", text)]


def test_a_base_that_the_genesis_does_not_name_is_found(written: Written) -> None:
    other = MasterState(written.base.layout, {}, np.zeros_like(written.base.master))
    written.execute("DELETE FROM snapshots WHERE height = 0")
    written.snapshots.save(other)
    assert wrong(written.folder) == [("replay", "the snapshot of 0 records is not the base that the genesis names")]


def test_a_snapshot_of_records_that_have_not_come_yet_is_told_of(written: Written) -> None:
    """A newcomer that ends before it has pulled what its snapshot holds."""
    written.execute("DELETE FROM batches WHERE start = 6")
    [(subject, found)] = wrong(written.folder)
    assert subject == "replay"
    assert found == f"records 6 to 15 of a log of {PEERS[1][-6:]} are missing"


def test_a_damaged_mark_is_named_and_the_rest_is_checked_all_the_same(written: Written) -> None:
    written.add_mark(2, written.all)
    assert [(mark.number, records) for mark, records in Past(written.folder).marks()] == [(2, 43), (1, 17)]
    (record,) = {row.record for row in written.folder.ledger.logs.marks() if row.records == 17}
    written.execute("UPDATE marks SET record = ? WHERE position = 17", record[:-1] + bytes([record[-1] ^ 1]))
    [(subject, found)] = wrong(written.folder)
    assert subject == "marks"
    assert "not signed by its author" in found
    assert list(audit(written.folder))[-1].good
    with pytest.raises(MalformedError):
        Past(written.folder).marks()


# Looking -------------------------------------------------------------------------------------------------------------


def test_shares_are_of_what_counts(written: Written) -> None:
    past = Past(written.folder)
    assert [(s.peer, s.logs, s.records, s.standing) for s in past.shares()] == [
        (PEERS[1], 2, 23, 23),
        (PEERS[2], 1, 20, 20),
    ]
    assert sum(share.share for share in past.shares()) == pytest.approx(1)
    assert [(s.peer, s.standing, s.share) for s in past.shares(position_of(written, 1, 3))] == [
        (PEERS[2], 3, 0.75),
        (PEERS[1], 1, 0.25),
    ]
    assert {share.share for share in past.shares({})} == {0.0}
    written.archive.keep_cut(order(written.authors[1], run=written.folder.run))
    after = Past(written.folder).shares()
    assert [(s.peer, s.records, s.standing, s.share) for s in after] == [(PEERS[1], 23, 23, 1.0), (PEERS[2], 20, 0, 0)]


def test_a_position_is_known_by_its_snapshot(written: Written) -> None:
    past = Past(written.folder)
    assert past.position_of(17) == written.half
    assert past.position_of(0) == {}
    with pytest.raises(StorageError, match="no snapshot of 18 records") as refusal:
        past.position_of(18)
    assert refusal.value.why == "it has snapshots of 0, 17, 43 records"


def test_what_had_arrived_by_a_time_is_what_counted_then(written: Written) -> None:
    for seconds, author in zip((100, 300, 200), written.authors, strict=True):
        written.arrived(seconds, author)
    past = Past(written.folder)
    one, two, three = written.logs
    for when, expected in (
        (99.9, {}),
        (100.0, {one: 15}),
        (250.0, {one: 15, three: 8}),
        (1e12, {one: 15, two: 20, three: 8}),
    ):
        assert past.at_time(when) == expected
    written.archive.keep_cut(order(written.authors[0], kept=4, run=written.folder.run))
    assert Past(written.folder).at_time(250.0) == {one: 4}, "what was cut later does not count any more"


def test_logs_come_in_the_order_in_which_they_came(written: Written) -> None:
    past = Past(written.folder)
    assert list(past.in_order(past.book.standing())) == written.logs
    assert list(past.in_order(position_of(written, 1))) == written.logs[:1]


def test_a_state_is_held_against_a_folder(written: Written) -> None:
    position = position_of(written, 7, 0, 3)
    honest = written.state_at(position)
    check = check_against(written.folder, honest.digest, position)
    assert check.good
    assert f"has state {honest.digest.hex()[:8]} after these 10 records" in check.found
    check = check_against(written.folder, written.base.digest, position)
    assert not check.good
    assert check.found.endswith(f"not {written.base.digest.hex()[:8]}")
    for missing in (position_of(written, 16), {Author(PEERS[3]).log: 1}):
        check = check_against(written.folder, honest.digest, missing)
        assert not check.good
        assert "are missing" in check.found


def test_a_snapshot_is_not_believed_because_it_is_there(written: Written) -> None:
    """A folder whose peer has computed wrongly does not confirm that."""
    honest = written.state_at(written.all)
    master = honest.master.copy()
    master[17] += 1
    lie = MasterState(honest.layout, honest.position, master)
    written.execute("DELETE FROM snapshots WHERE height = 43")
    written.snapshots.save(lie)
    assert not check_against(written.folder, lie.digest, lie.position).good
    assert check_against(written.folder, honest.digest, honest.position).good
    written.execute("DELETE FROM snapshots WHERE height = 0")
    check = check_against(written.folder, honest.digest, honest.position)
    assert check.good
    assert check.found.endswith("after these 43 records, replayed from a snapshot of 17")
    written.execute("DELETE FROM snapshots")
    assert not check_against(written.folder, honest.digest, honest.position).good


def test_a_base_of_somebody_else_s_proves_nothing(written: Written) -> None:
    other = MasterState(written.base.layout, {}, np.zeros_like(written.base.master))
    written.execute("DELETE FROM snapshots WHERE height = 0")
    written.snapshots.save(other)
    check = check_against(written.folder, other.digest, {})
    assert not check.good
    assert "not the base that the genesis names" in check.found
