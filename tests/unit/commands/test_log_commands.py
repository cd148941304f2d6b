"""What the command line does with a one-byte run's folder: replay, history, export and verify."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from p2ptrain.commands.export import export_run
from p2ptrain.commands.history import history
from p2ptrain.commands.provenance import check_export
from p2ptrain.commands.replay import replay
from p2ptrain.commands.revoke import revoke
from p2ptrain.commands.verify import verify
from p2ptrain.errors import AccessError, LedgerError, P2PTrainError, SpecError, StorageError, UsageError
from p2ptrain.parameters import shared_parameters
from p2ptrain.run import RunSpec, SPSAMethod
from p2ptrain.spsa.audit import Past
from p2ptrain.spsa.position import Position
from p2ptrain.state import RunFolder
from p2ptrain.tasks import LocalOptions, open_task
from tests.unit.diloco.peers import GENESIS
from tests.unit.diloco.peers import SPEC as DILOCO_SPEC
from tests.unit.diloco.samples import PEERS
from tests.unit.peer.samples import spec_of
from tests.unit.spsa.folders import METHOD, Written
from tests.unit.spsa.samples import FOUNDER
from tests.unit.spsa.test_logbook import order

ONE, OTHER = PEERS[1], PEERS[2]
"""One has said 15 records and, in another log, 8; the other one 20."""
Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def spec(corpus: Path) -> RunSpec:
    return spec_of(corpus).model_copy(update={"method": SPSAMethod.model_validate(METHOD)})


@pytest.fixture(scope="module")
def weights(spec: RunSpec) -> dict[str, torch.Tensor]:
    return dict(shared_parameters(open_task(spec, LocalOptions(device="cpu")).model))


@pytest.fixture
def written(tmp_path: Path, spec: RunSpec, weights: dict[str, torch.Tensor]) -> Iterator[Written]:
    """Its folder stays open, as a running peer has it."""
    made = Written(tmp_path / "home", spec, weights)
    yield made
    made.close()


@pytest.fixture(scope="module")
def unharmed(
    tmp_path_factory: pytest.TempPathFactory, spec: RunSpec, weights: dict[str, torch.Tensor]
) -> Iterator[Written]:
    """The same for tests that leave it so."""
    made = Written(tmp_path_factory.mktemp("home"), spec, weights)
    yield made
    made.close()


@pytest.fixture
def other_method(tmp_path: Path) -> Path:
    """A folder of a run of the other method."""
    folder = RunFolder.create(tmp_path / "other", GENESIS, DILOCO_SPEC, FOUNDER)
    folder.close()
    return folder.path


def digest_at(written: Written, *counts: int) -> str:
    position: Position = dict(zip(written.logs, counts, strict=False))
    return written.state_at(position).digest.hex()


def replayed(written: Written, capsys: Out, *to: str, at: str | None = None) -> str:
    capsys.readouterr()
    replay(written.folder.path, to, at, None, None)
    return capsys.readouterr().out.strip()


def lines_of(capsys: Out) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# Replay --------------------------------------------------------------------------------------------------------------


def test_a_replay_leads_to_all_that_counts(written: Written, capsys: Out) -> None:
    assert replayed(written, capsys) == f"43 records of 3 logs: state {digest_at(written, 15, 20, 8)}"
    written.archive.keep_cut(order(written.authors[1], kept=4, run=written.folder.run))
    assert replayed(written, capsys) == f"27 records of 3 logs: state {digest_at(written, 15, 4, 8)}"


@pytest.mark.parametrize(
    ("to", "counts", "logs"),
    [
        ((f"{ONE[-6:]}:7",), (7,), 1),
        ((f"{ONE[-6:]}:15",), (15,), 1),
        ((f"{ONE[-6:]}:17",), (15, 0, 2), 2),
        ((f"{ONE}:23", f"{OTHER[-4:]}:20"), (15, 20, 8), 3),
        ((f"{OTHER[-6:]}:3", f"{ONE[-6:]}:1"), (1, 3), 2),
        ((f"{ONE[-6:]}:0",), (), 0),
    ],
)
def test_authors_are_named_by_their_endings_and_their_records_in_the_order_they_were_said_in(
    unharmed: Written, capsys: Out, to: tuple[str, ...], counts: tuple[int, ...], logs: int
) -> None:
    expected = f"{sum(counts)} records of {logs} logs: state {digest_at(unharmed, *counts)}"
    assert replayed(unharmed, capsys, *to) == expected


@pytest.mark.parametrize("to", ["nobody:3", f"{PEERS[3]}:1"])
def test_who_is_not_in_the_run_is_refused_with_those_who_are(unharmed: Written, to: str) -> None:
    with pytest.raises(StorageError, match="found no peer with records for --to") as refusal:
        replay(unharmed.folder.path, (to,), None, None, None)
    assert refusal.value.why == f"the peers and their records are: {ONE[-6:]} (23), {OTHER[-6:]} (20)"


@pytest.mark.parametrize("to", [":3", "3", f"{ONE[-6:]}", f"{ONE[-6:]}:", f"{ONE[-6:]}:-1", f"{ONE[-6:]}:²"])
def test_a_position_that_is_malformed_is_a_usage_error(unharmed: Written, to: str) -> None:
    with pytest.raises(UsageError, match="is not PEER:RECORDS") as refusal:
        replay(unharmed.folder.path, (to,), None, None, None)
    assert "--to abc123:5000" in refusal.value.next_step


def test_more_records_than_an_author_s_that_count_are_refused(written: Written) -> None:
    with pytest.raises(StorageError, match="only 23 records of that peer count"):
        replay(written.folder.path, (f"{ONE[-6:]}:24",), None, None, None)
    written.archive.keep_cut(order(written.authors[0], kept=4, run=written.folder.run))
    with pytest.raises(StorageError, match="only 4 records of that peer count"):
        replay(written.folder.path, (f"{ONE[-6:]}:5",), None, None, None)


def test_a_replay_to_a_time_takes_what_had_arrived(written: Written, capsys: Out) -> None:
    for hours, author in zip((1, 3, 2), written.authors, strict=True):
        written.arrived(1_700_000_000 + 3600 * hours, author)
    for hours, counts, logs in ((0.5, (), 0), (1.5, (15,), 1), (2.5, (15, 0, 8), 2), (9, (15, 20, 8), 3)):
        at = datetime.fromtimestamp(1_700_000_000 + 3600 * hours).isoformat()
        expected = f"{sum(counts)} records of {logs} logs: state {digest_at(written, *counts)}"
        assert replayed(written, capsys, at=at) == expected


@pytest.mark.parametrize("at", ["", "yesterday", "2026-13-01", "12:00"])
def test_what_is_no_time_is_refused(unharmed: Written, at: str) -> None:
    with pytest.raises(UsageError, match="is not a date and time"):
        replay(unharmed.folder.path, (), at, None, None)


def test_a_replay_is_exported_and_overwrites_nothing(unharmed: Written, tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "out"
    replay(unharmed.folder.path, (f"{ONE[-6:]}:17",), None, out, None)
    assert all(check.good for check in check_export(out))
    provenance = json.loads((out / "provenance.json").read_text())
    assert (provenance["height"], provenance["state"]) == (17, digest_at(unharmed, 15, 0, 2))
    assert [(part["peer"], part["share"]) for part in provenance["contributors"]] == [(ONE, 1.0), (OTHER, 0.0)]
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(StorageError, match="is not empty"):
        replay(unharmed.folder.path, (), None, out, None)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(StorageError, match="can't write"):
        replay(unharmed.folder.path, (), None, out / "provenance.json" / "there", None)


def test_a_damaged_log_is_not_replayed(written: Written) -> None:
    written.execute("UPDATE batches SET record = x'00' WHERE start = 6")
    with pytest.raises(LedgerError, match=f"a log of {ONE[-6:]} is damaged from record 6 on"):
        replay(written.folder.path, (), None, None, None)


def test_a_run_of_another_method_is_not_replayed(other_method: Path) -> None:
    with pytest.raises(SpecError, match="does not train by one-byte SPSA"):
        replay(other_method, (), None, None, None)


def test_nobody_is_revoked_in_a_public_run_without_records(other_method: Path) -> None:
    with pytest.raises(AccessError, match="a public run can't shut out a peer"):
        revoke(other_method, ONE, None, False, None)


# History -------------------------------------------------------------------------------------------------------------


def test_history_tells_who_measured_how_much_marks_and_cuts(written: Written, capsys: Out) -> None:
    for minutes, author in zip((0, 61, 5), written.authors, strict=True):
        written.arrived(1_700_000_000 + 60 * minutes, author)
    said = written.authors[0].batches[2]
    proof = Past(written.folder).book.proof(written.authors[0].say_again(2, 9), said)
    written.archive.keep_cut(proof)
    written.archive.keep_cut(order(written.authors[1], kept=4, run=written.folder.run))
    history(written.folder.path, json_lines=True)
    found = lines_of(capsys)
    assert [(line["seen"], line["records"]) for line in found if line["event"] == "records"] == [
        (1_700_000_000, 15),
        (1_700_000_300, 8),
        (1_700_003_660, 20),
    ]
    assert [(line["peer"], line["records"], line["standing"]) for line in found if line["event"] == "author"] == [
        (ONE, 23, 14),
        (OTHER, 20, 4),
    ]
    assert [(line["number"], line["author"], line["records"]) for line in found if line["event"] == "mark"] == [
        (1, ONE, 17)
    ]
    cuts = sorted(str(line["text"]) for line in found if line["event"] == "cut")
    assert cuts == sorted(
        [
            f"{ONE[-6:]} contradicted itself: its log {written.logs[0].session.hex()} ends at record 6, "
            "the rest is taken back",
            f"an owner has revoked {OTHER[-6:]}: 4 of its records stay, the rest is taken back",
        ]
    )
    history(written.folder.path, json_lines=False)
    told = capsys.readouterr().out
    assert "18 records count; 1 marks" in told
    assert "77.8%" in told
    assert all(cut in " ".join(told.split()) for cut in cuts)
    assert told.count("2023-11-1") == 2, "two spans of ten minutes in which something came"


def test_history_of_a_run_without_records_says_so(written: Written, capsys: Out) -> None:
    for table in ("batches", "logs", "marks"):
        written.execute(f"DELETE FROM {table}")
    history(written.folder.path, json_lines=False)
    assert capsys.readouterr().out == "no records yet\n"
    history(written.folder.path, json_lines=True)
    assert capsys.readouterr().out == ""


# Export and verify ---------------------------------------------------------------------------------------------------


def test_an_export_is_what_the_logs_lead_to_and_can_be_verified(unharmed: Written, tmp_path: Path, capsys: Out) -> None:
    out, state = tmp_path / "out", unharmed.state_at(unharmed.all)
    told = export_run(unharmed.folder.path, out, None)
    assert told == f"wrote {out}: 43 records, state {state.digest.hex()[:12]}"
    expected = state.layout.to_weights(torch.from_numpy(state.master.copy()))
    for name, tensor in AutoModelForCausalLM.from_pretrained(out).named_parameters():
        assert torch.equal(tensor, expected[name]), name
    capsys.readouterr()
    verify(out, None, unharmed.folder.path, json_lines=True)
    assert [(line["subject"], line["good"]) for line in lines_of(capsys)] == [
        ("run", True),
        ("weights", True),
        ("ledger", True),
    ]
    verify(unharmed.folder.path, None, None, json_lines=True)
    found = lines_of(capsys)
    assert all(line["good"] for line in found)
    assert state.digest.hex() in str(found[-1]["found"])


def test_a_snapshot_s_state_can_be_exported_by_its_records(unharmed: Written, tmp_path: Path) -> None:
    half = unharmed.state_at(unharmed.half)
    told = export_run(unharmed.folder.path, tmp_path / "out", None, at=17)
    assert told.endswith(f": 17 records, state {half.digest.hex()[:12]}")
    assert all(check.good for check in check_export(tmp_path / "out"))
    with pytest.raises(StorageError, match="has no snapshot of 18 records"):
        export_run(unharmed.folder.path, tmp_path / "another", None, at=18)


def test_other_weights_or_another_provenance_are_found(unharmed: Written, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_run(unharmed.folder.path, out, None)
    path = out / "provenance.json"
    told = json.loads(path.read_text())
    for changes, subjects in (
        ({"state": "00" * 32}, ["weights"]),
        ({"height": 42}, ["weights"]),
        ({"weights": "00" * 32}, ["weights"]),
        ({"manifest": "AAAA"}, ["weights"]),
        ({"run": "00" * 32}, ["run"]),
        ({}, []),
    ):
        path.write_text(json.dumps(told | changes))
        assert [check.subject for check in check_export(out) if not check.good] == subjects
    model = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        next(model.parameters()).view(-1)[7] += 1e-3
    model.save_pretrained(out)
    assert [check.subject for check in check_export(out) if not check.good] == ["weights"]


def test_a_ledger_that_leads_elsewhere_contradicts_an_export(written: Written, tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "out"
    export_run(written.folder.path, out, None)
    written.execute("DELETE FROM batches WHERE start = 6")
    with pytest.raises(LedgerError, match="did not pass all checks"):
        verify(out, None, written.folder.path, json_lines=False)
    assert capsys.readouterr().out.splitlines()[-1].startswith("WRONG  ledger")


def test_an_export_that_does_not_say_what_it_holds_is_not_confirmed(
    unharmed: Written, tmp_path: Path, capsys: Out
) -> None:
    out = tmp_path / "out"
    export_run(unharmed.folder.path, out, None)
    path = out / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"manifest": "AAAA"}))
    with pytest.raises(LedgerError, match="did not pass all checks") as refusal:
        verify(out, None, unharmed.folder.path, json_lines=False)
    assert refusal.value.why == "wrong: weights, ledger"
    assert "the export does not say what its state holds" in capsys.readouterr().out


def test_verify_tells_what_is_wrong_with_a_folder(written: Written, capsys: Out) -> None:
    written.damage(written.state_at(written.half))
    with pytest.raises(LedgerError, match="did not pass all checks") as refusal:
        verify(written.folder.path, None, None, json_lines=False)
    assert refusal.value.why == "wrong: snapshot"
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told].count("WRONG") == 1
    assert told[-1].startswith("ok     replay")


@pytest.mark.parametrize("command", ["replay", "export", "history"])
def test_a_folder_whose_logs_are_damaged_is_refused_in_words(written: Written, tmp_path: Path, command: str) -> None:
    """A record that has become what no byte says, not only another one."""
    record = written.authors[0].batches[2].stored
    written.execute("UPDATE batches SET record = ? WHERE start = 6", record[:5] + b"\x80" + record[6:])
    run: dict[str, Callable[[], object]] = {
        "replay": lambda: replay(written.folder.path, (), None, None, None),
        "export": lambda: export_run(written.folder.path, tmp_path / "out", None),
        "history": lambda: history(written.folder.path, json_lines=True),
    }
    with pytest.raises(P2PTrainError, match="is damaged from record 6 on"):
        run[command]()
