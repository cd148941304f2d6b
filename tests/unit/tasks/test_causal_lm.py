"""The task as a whole: its loss, its evaluation, and the folder that it exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p2ptrain.errors import DataError, SpecError
from p2ptrain.run import RunSpec
from p2ptrain.tasks import LocalOptions
from p2ptrain.tasks.causal_lm import CausalLM
from p2ptrain.tasks.tokenizer import ByteTokenizer
from tests.unit.tasks.samples import holds, marked_documents, tiny_spec

FRACTION = 0.2
TEXTS = marked_documents(30, FRACTION)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text)
    return folder


def spec_of(path: Path, **fields: Any) -> RunSpec:
    data = {"source": "files", "paths": [str(path)], "sequence_length": 32, "held_out": FRACTION}
    return tiny_spec(data=data, **fields)


@pytest.fixture(scope="module")
def task(corpus: Path) -> CausalLM:
    made = CausalLM(spec_of(corpus), LocalOptions(device="cpu", batch_size=3))
    made.load_data(seed=5)
    return made


def cross_entropy(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Mean surprise at every token but the first, in nats, from the logits before it."""
    surprises = []
    for row in tokens:
        logits = model(row[None]).logits[0]
        for before, token in zip(logits, row[1:], strict=False):
            surprises.append(torch.logsumexp(before, 0) - before[token])
    return torch.stack(surprises).mean()


def test_the_loss_is_the_cross_entropy_of_the_next_token(task: CausalLM) -> None:
    tokens = torch.from_numpy(task.rows.batch(4, 3)).long()
    torch.testing.assert_close(task.loss(4), cross_entropy(task.model, tokens))


def test_the_loss_can_be_trained_on(task: CausalLM) -> None:
    loss = task.loss(0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert all(parameter.grad is not None for parameter in task.model.parameters())
    task.model.zero_grad()


def test_a_step_takes_batch_size_sequences(task: CausalLM) -> None:
    assert task.tokens_per_step == 3 * 32


# Evaluation --------------------------------------------------------------------------------------------------------


def test_an_evaluation_is_the_mean_over_all_held_out_tokens(task: CausalLM) -> None:
    tokens = torch.from_numpy(task.rows.held_out).long()
    assert len(tokens) % 16, "the last batch is a smaller one"
    own = dict(task.model.named_parameters())
    assert task.evaluate(own).loss == pytest.approx(cross_entropy(task.model, tokens).item(), rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_uses_the_given_weights_and_leaves_the_models_own_alone(task: CausalLM, training: bool) -> None:
    task.model.train(training)
    before = {name: parameter.detach().clone() for name, parameter in task.model.named_parameters()}
    zeros = {name: torch.zeros_like(parameter) for name, parameter in before.items()}
    assert task.evaluate(zeros).loss == pytest.approx(np.log(257), rel=1e-6)
    assert all(torch.equal(parameter, before[name]) for name, parameter in task.model.named_parameters())
    assert all(parameter.grad is None for parameter in task.model.parameters())
    assert task.model.training is training


def test_tied_weights_are_evaluated_as_given(corpus: Path) -> None:
    """The head has no name of its own among the parameters: it must follow the embedding that was given."""
    tied = CausalLM(spec_of(corpus, tie_word_embeddings=True), LocalOptions(device="cpu"))
    tied.load_data(0)
    given = {name: torch.randn_like(parameter) for name, parameter in tied.model.named_parameters()}
    evaluated = tied.evaluate(given).loss
    with torch.no_grad():
        for name, parameter in tied.model.named_parameters():
            parameter.copy_(given[name])
    expected = cross_entropy(tied.model.eval(), torch.from_numpy(tied.rows.held_out).long())
    assert evaluated == pytest.approx(expected.item(), rel=1e-4)


def test_the_held_out_digest_names_the_held_out_text(task: CausalLM, corpus: Path) -> None:
    again = CausalLM(spec_of(corpus), LocalOptions(device="cpu"))
    again.load_data(seed=6)
    assert again.held_out_digest == task.held_out_digest
    less = CausalLM(spec_of(corpus), LocalOptions(device="cpu", data=(f"{corpus}/1*.txt",)))
    less.load_data(seed=6)
    assert less.held_out_digest != task.held_out_digest


# Data --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_dataset_cache")
@pytest.mark.parametrize("kind", ["files", "dataset", "stream"])
def test_every_kind_of_data_trains_on_one_side_and_evaluates_on_the_other(tmp_path: Path, kind: str) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    source = {"source": "files", "paths": [str(tmp_path / "rows" / "*.jsonl")]}
    if kind != "files":
        source = {"source": "dataset", "dataset": str(tmp_path / "rows"), "streaming": kind == "stream"}
    data = {**source, "text_column": "body", "sequence_length": 32, "held_out": FRACTION}
    task = CausalLM(tiny_spec(data=data), LocalOptions(device="cpu"))
    task.load_data(0)
    batch = task.rows.batch(0, 32)
    assert holds(batch, "T")
    assert not holds(batch, "H")
    assert holds(task.rows.held_out, "H")
    assert task.loss(0).isfinite()


def test_before_a_step_all_of_its_batches_are_fetched(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a source that fails between two batches of a one-byte step would cost the first one."""
    method = {"name": "spsa", "batches_per_seed": 4}
    for spec, rows in (
        (spec_of(corpus), 3),
        (RunSpec.model_validate({**spec_of(corpus).model_dump(), "method": method}), 12),
    ):
        task, asked = CausalLM(spec, LocalOptions(device="cpu", batch_size=3)), list[int]()
        task.load_data(0)
        monkeypatch.setattr(task.rows, "prepare", asked.append)
        task.prepare()
        assert asked == [rows]


def test_a_volunteers_files_stand_for_the_specs(corpus: Path) -> None:
    nowhere = spec_of(corpus / "nowhere")
    with pytest.raises(DataError, match="no file matches"):
        CausalLM(nowhere, LocalOptions(device="cpu")).load_data(0)
    task = CausalLM(nowhere, LocalOptions(device="cpu", data=(str(corpus),)))
    task.load_data(0)
    assert holds(task.rows.held_out, "H")


# Devices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:99", "nosuch", "cpu:x"])
def test_a_device_that_is_not_there_is_an_error_that_names_it(corpus: Path, device: str) -> None:
    with pytest.raises(DataError, match=f"the device '{device}'"):
        CausalLM(spec_of(corpus), LocalOptions(device=device))


def test_without_a_compiler_compile_is_an_error_that_says_so(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(_: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", lambda function: compiled)
    with pytest.raises(DataError, match="--compile: ") as told:
        CausalLM(spec_of(corpus), LocalOptions(device="cpu", compile=True))
    assert told.value.why == "InvalidCxxCompiler: No working C++ compiler found"
    assert "leave out --compile" in told.value.next_step


def test_autocast_computes_close_to_float32_and_keeps_float32_weights(task: CausalLM, corpus: Path) -> None:
    halves = CausalLM(spec_of(corpus), LocalOptions(device="cpu", batch_size=3, autocast=True))
    halves.load_data(seed=5)
    assert halves.loss(4).dtype == torch.float32
    assert halves.loss(4).item() != task.loss(4).item()
    assert halves.loss(4).item() == pytest.approx(task.loss(4).item(), abs=0.05)
    assert {parameter.dtype for parameter in halves.model.parameters()} == {torch.float32}


# Export ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_an_exported_folder_gives_the_same_logits_and_tokens(corpus: Path, tmp_path: Path, tied: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task = CausalLM(spec_of(corpus, tie_word_embeddings=tied), LocalOptions(device="cpu"))
    given = {name: torch.randn_like(parameter) for name, parameter in task.model.named_parameters()}
    task.export(given, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert all(torch.equal(parameter, given[name]) for name, parameter in loaded.named_parameters())
    ids = tokenizer("def read_", return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == ByteTokenizer().encode("def read_").tolist()
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, task.model.eval()(ids).logits)


def test_a_run_of_a_founders_own_program_is_told_so() -> None:
    with pytest.raises(SpecError, match="made by a program of its founder"):
        CausalLM(tiny_spec(data={"source": "custom"}), LocalOptions(device="cpu"))
