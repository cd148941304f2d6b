"""An exported folder is what transformers loads, with the very weights that the ledger leads to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from p2ptrain.commands.export import export_run
from p2ptrain.commands.history import history
from p2ptrain.commands.provenance import check_export
from p2ptrain.commands.verify import verify
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.replica import Replica, StartingPoint
from p2ptrain.diloco.state import GlobalState
from p2ptrain.errors import LedgerError, P2PTrainError, StorageError, UsageError
from p2ptrain.parameters import digest_of_frozen, shared_parameters
from p2ptrain.run import NO_DIGEST, Genesis, RunSpec, digest_of
from p2ptrain.run.spec import LoraSection
from p2ptrain.state import Blobs, HeadSeen, RunFolder
from p2ptrain.tasks import LocalOptions, open_task
from p2ptrain.tasks.tokenizer import ByteTokenizer
from tests.unit.diloco.samples import KEY_OF, PEERS, commit_on, encoded, offer
from tests.unit.diloco.swarm_in_memory import KEYS
from tests.unit.peer.samples import spec_of
from tests.unit.tasks.samples import CLASSIFICATION, example_spec


class Trained:
    """A run of three commits above its base, in a folder; what its model should answer."""

    def __init__(self, home: Path, spec: RunSpec) -> None:
        self.task = open_task(spec, LocalOptions(device="cpu"))
        tensors = shared_parameters(self.task.model)
        frozen = digest_of_frozen(self.task.model)
        layout = Layout.of({name: tensor.shape for name, tensor in tensors.items()}, 2, frozen)
        thetas = [layout.gather(tensors, index).numpy() for index in range(2)]
        base = GlobalState.initial(layout.digest, thetas, frozen)
        self.folder = RunFolder.create(
            home, Genesis.found(spec, base.digest, NO_DIGEST, "tests", KEYS[0]), spec, PEERS[0]
        )
        self.replica = replica = Replica(self.folder, layout, Blobs())
        replica.begin(StartingPoint(base))
        self.state = base
        self.states = [base]
        for height in range(1, 4):
            noise = np.random.default_rng(height).standard_normal(layout.sizes[height % 2])
            update = (noise / 50).astype(np.float32)
            part = offer(PEERS[0], height, encoded(spec, update), run=self.folder.run).signed(KEY_OF[PEERS[0]])
            replica.store_payload(part, encoded(spec, update), self.state)
            commit = commit_on(self.state.head, [part], run=self.folder.run).signed(KEY_OF[PEERS[0]])
            self.state = replica.apply(commit).state
            self.states.append(self.state)
            self.folder.ledger.set_head(commit.digest)
        self.weights = layout.assemble([torch.tensor(part.theta.values) for part in self.state.fragments])
        assert any(not torch.equal(self.weights[name], tensor) for name, tensor in tensors.items())

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            answer: Any = torch.func.functional_call(self.task.model.eval(), self.weights, ids)
        return torch.as_tensor(answer.logits)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Iterator[Trained]:
    """Its folder stays open, as a running peer has it."""
    made = Trained(tmp_path_factory.mktemp("home"), spec_of(corpus))
    yield made
    made.folder.close()


def test_an_export_loads_with_the_auto_classes_and_answers_the_same(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = export_run(trained.folder.path, out, None)
    assert told == f"wrote {out}: height 3, state {trained.state.digest.hex()[:12]}"
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, trained.weights[name]), name
    ids = tokenizer("def naïve(): ✓", return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == ByteTokenizer().encode("def naïve(): ✓").tolist()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, trained.logits(ids))
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["run"] == trained.folder.run.hex()
    assert provenance["height"] == 3
    assert provenance["commit"] == trained.state.commit.hex()
    assert provenance["state"] == trained.state.digest.hex()
    assert provenance["weight"] == trained.state.weight
    assert provenance["founder"] == KEYS[0].peer_id
    assert provenance["heights_known"] == [1, 3]
    assert [(part["peer"], part["contributions"], part["share"]) for part in provenance["contributors"]] == [
        (PEERS[0], 3, 1.0)
    ]


def refusal_of(run_dir: Path, out: Path) -> P2PTrainError:
    with pytest.raises(StorageError) as refusal:
        export_run(run_dir, out, None)
    return refusal.value


def test_nothing_is_ever_overwritten(trained: Trained, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    assert refusal_of(trained.folder.path, tmp_path).what == f"{tmp_path} is not empty"
    assert refusal_of(trained.folder.path, precious).what == f"{precious} is a file"
    assert precious.read_text() == "data"


def test_what_is_no_run_folder_is_not_exported(tmp_path: Path) -> None:
    assert refusal_of(tmp_path, tmp_path / "out").what == f"{tmp_path} is not a run folder"
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_state_is_not_exported(tmp_path: Path, corpus: Path) -> None:
    spec = spec_of(corpus)
    genesis = Genesis.found(spec, NO_DIGEST, NO_DIGEST, "tests", KEYS[0])
    folder = RunFolder.create(tmp_path, genesis, spec, PEERS[0])
    assert refusal_of(folder.path, tmp_path / "out").what == f"{folder.path} holds no state yet"
    folder.close()


def test_a_place_that_can_not_be_written_is_named(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    assert refusal_of(trained.folder.path, out).what == f"can't write {out}"


# At other heights, and checked ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [0, 2])
def test_an_earlier_height_can_be_exported(trained: Trained, tmp_path: Path, height: int) -> None:
    out, state = tmp_path / "out", trained.states[height]
    told = export_run(trained.folder.path, out, None, at=height)
    assert told == f"wrote {out}: height {height}, state {state.digest.hex()[:12]}"
    assert all(check.good for check in check_export(out))


def test_a_height_that_the_ledger_does_not_know_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has no commit of height 9") as refusal:
        export_run(trained.folder.path, tmp_path / "out", None, at=9)
    assert refusal.value.why == "it has heights 1 to 3"


@pytest.fixture
def exported(trained: Trained, tmp_path: Path) -> Path:
    export_run(trained.folder.path, tmp_path / "out", None)
    return tmp_path / "out"


def wrong(out: Path) -> list[str]:
    return [check.subject for check in check_export(out) if not check.good]


def test_an_export_agrees_with_its_provenance(exported: Path, trained: Trained) -> None:
    run, weights = check_export(exported)
    assert run.good
    assert KEYS[0].peer_id in run.found
    assert weights.good
    assert trained.state.digest.hex() in weights.found


@pytest.mark.parametrize("part", ["adapters", "trainable", "classification"])
def test_an_export_of_a_part_or_of_another_task_agrees_with_its_provenance(
    tmp_path: Path, corpus: Path, part: str
) -> None:
    spec = spec_of(corpus)
    section = {"lora": LoraSection(rank=2)} if part == "adapters" else {"trainable": ("*.self_attn.*",)}
    if part == "classification":
        other = example_spec(tmp_path, CLASSIFICATION, architecture="bert")
        spec = spec.model_copy(update={"data": other.data, "model": other.model, "task": other.task})
    else:
        spec = spec.model_copy(update={"model": spec.model.model_copy(update=section)})
    made, out = Trained(tmp_path, spec), tmp_path / "out"
    made.folder.close()
    export_run(made.folder.path, out, None)
    scope = "; only adapters.safetensors was checked" if part == "adapters" else ""
    told = check_export(out)[1]
    assert told.good
    assert told.found.partition(", not")[0] == f"height 3, state {made.state.digest.hex()}{scope}"
    file = out / ("adapters.safetensors" if part == "adapters" else "model.safetensors")
    weights, changed = load_file(file), next(iter(made.weights))
    untrained = [name for name in weights if name not in made.weights]
    assert bool(untrained) == (part == "trainable")
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    for name in (changed, *untrained[:1]):
        save_file({**weights, name: weights[name] + 1e-3}, file, metadata)
        assert wrong(out) == ["weights"]


def test_other_weights_are_found(exported: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported)
    with torch.no_grad():
        next(model.parameters()).view(-1)[7] += 1e-3
    model.save_pretrained(exported)
    assert wrong(exported) == ["weights"]


@pytest.mark.parametrize(
    ("field", "value", "subjects"),
    [
        ("state", "00" * 32, ["weights"]),
        ("height", 2, ["weights"]),
        ("manifest", "AAAA", ["weights"]),
        ("run", "00" * 32, ["run"]),
        ("genesis", "AAAA", ["run"]),
        ("genesis", "not base64!", ["run"]),
        ("spec", "{}", ["run", "weights"]),
    ],
)
def test_a_changed_provenance_is_found(exported: Path, field: str, value: object, subjects: list[str]) -> None:
    path = exported / "provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    assert wrong(exported) == subjects


def test_what_is_no_export_is_refused(exported: Path) -> None:
    (exported / "provenance.json").write_text("{}")
    with pytest.raises(StorageError, match="can't be read"):
        check_export(exported)


def test_verify_says_ok_or_wrong_and_ends_so(
    trained: Trained, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(trained.folder.path, None, None, json_lines=False)
    verify(exported, None, None, json_lines=True)
    told = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in told[:-2])
    assert [json.loads(line)["good"] for line in told[-2:]] == [True, True]
    path = exported / "provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "height": 2}))
    with pytest.raises(LedgerError, match="did not pass all checks"):
        verify(exported, None, None, json_lines=False)
    assert capsys.readouterr().out.splitlines()[-1].startswith("WRONG  weights")


def test_an_export_is_held_against_a_ledger(
    trained: Trained, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(exported, None, trained.folder.path, json_lines=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["subject"] for line in lines] == ["run", "weights", "ledger"]
    assert trained.state.digest.hex()[:8] in lines[-1]["found"]
    spec = trained.folder.spec
    other = RunFolder.create(
        tmp_path, Genesis.found(spec, digest_of(b"base"), NO_DIGEST, "tests", KEYS[1]), spec, PEERS[1]
    )
    other.close()
    with pytest.raises(LedgerError, match="did not pass all checks"):
        verify(exported, None, other.path, json_lines=False)
    assert "belongs to another run" in capsys.readouterr().out.splitlines()[-1]
    with pytest.raises(UsageError, match="--run means nothing"):
        verify(trained.folder.path, None, trained.folder.path, json_lines=False)


def test_a_ledger_that_knows_another_state_contradicts_an_export(
    trained: Trained, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported / "provenance.json"
    told = json.loads(path.read_text())
    for changes, why in (
        ({"state": "00" * 32}, "not 00000000"),
        ({"commit": "00" * 32}, "not " + told["state"][:8]),
        ({"commit": "11" * 32}, "does not know the commit 11111111"),
    ):
        path.write_text(json.dumps(told | changes))
        with pytest.raises(LedgerError, match="did not pass all checks"):
            verify(exported, None, trained.folder.path, json_lines=False)
        assert why in capsys.readouterr().out.splitlines()[-1]


def test_history_tells_commits_and_contributors(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    history(trained.folder.path, json_lines=False)
    told = capsys.readouterr().out
    assert PEERS[0][-6:] in told
    assert "100.0%" in told
    history(trained.folder.path, json_lines=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["height"] for line in lines] == [1, 2, 3]
    assert lines[0]["contributors"] == [PEERS[0]]


def test_history_tells_of_branches_that_were_left_and_of_others(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The head has moved from height 3 to a rival commit of height 2."""
    trained = Trained(tmp_path, spec_of(corpus))
    rival = commit_on(trained.states[1].head, attempt=1, run=trained.folder.run).signed(KEY_OF[PEERS[0]])
    trained.replica.apply(rival)
    trained.replica.note_rollback(trained.state.commit, rival.digest, PEERS[0])
    trained.folder.ledger.set_head(rival.digest)
    trained.folder.ledger.see_heads([HeadSeen(PEERS[2], 77, b"its words")])
    for json_lines in (True, False):
        history(trained.folder.path, json_lines)
    trained.folder.close()
    *told, shown = capsys.readouterr().out.split("\n", 6)
    lines = [json.loads(line) for line in told]
    assert [(line["event"], line.get("height")) for line in lines] == [
        ("commit", 1),
        ("commit", 2),
        ("archived", 2),
        ("archived", 3),
        ("rollback", None),
        ("head", 77),
    ]
    left = lines[4]
    assert (left["old"], left["new"]) == (trained.state.commit.hex(), rival.digest.hex())
    assert (left["commits"], left["tokens"], left["own_tokens"]) == (2, 200, 200)
    assert lines[5]["peer"] == PEERS[2]
    assert "2 commits on branches that lost" in shown
    assert PEERS[2][-6:] in shown
