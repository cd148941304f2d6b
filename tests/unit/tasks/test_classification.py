"""Classification: encoders and decoders with a head, fresh or their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from p2ptrain.errors import DataError, SpecError
from p2ptrain.tasks import LocalOptions, open_task
from p2ptrain.tasks.classification import TextClassification
from p2ptrain.tasks.examples import Example
from tests.unit.tasks.samples import CLASSIFICATION, TINY_LLAMA, example_spec, framing_tokenizer

pytestmark = pytest.mark.usefixtures("own_dataset_cache")


def open_classification(folder: Path, **fields: Any) -> TextClassification:
    made = open_task(example_spec(folder, CLASSIFICATION, **fields), LocalOptions(device="cpu", batch_size=5))
    assert isinstance(made, TextClassification)
    made.load_data(3)
    return made


def logits(model: Any, text: str) -> torch.Tensor:
    """One text alone: nothing is padded, nothing masked."""
    with torch.no_grad():
        return torch.as_tensor(model(torch.tensor([list(text.encode())])).logits[0])


@pytest.mark.parametrize("architecture", ["bert", "llama", "gpt2"])
def test_loss_and_accuracy_are_those_of_each_text_alone(tmp_path: Path, architecture: str) -> None:
    made = open_classification(tmp_path, architecture=architecture)
    made.model.eval()
    batch = made.rows.batch(1, 5)
    assert len({len(example.text) for example in batch}) > 1, "padding matters"
    surprises = [-torch.log_softmax(logits(made.model, e.text), 0)[e.label] for e in batch]
    torch.testing.assert_close(made.loss(1), torch.stack(surprises).mean())
    given = {
        n: torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) for n, p in made.model.named_parameters()
    }
    found = made.evaluate(given)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            parameter.copy_(given[name])
    held_out = made.rows.held_out
    each = [logits(made.model, example.text) for example in held_out]
    losses = [-torch.log_softmax(row, 0)[e.label].item() for row, e in zip(each, held_out, strict=True)]
    correct = [int(row.argmax()) == e.label for row, e in zip(each, held_out, strict=True)]
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert found.accuracy == pytest.approx(sum(correct) / len(correct))


def test_a_long_text_loses_its_end_and_keeps_its_frame(tmp_path: Path) -> None:
    tokenizer = framing_tokenizer(tmp_path / "tokenizer")
    made = open_classification(tmp_path, architecture="bert", data={"tokenizer": str(tokenizer)})
    assert made.tokens(Example("x" * 50, (), 0)).tolist() == [257, *[ord("x")] * 30, 258]
    assert made.tokens(Example("xy", (), 0)).tolist() == [257, ord("x"), ord("y"), 258]
    assert made.loss(0).isfinite()


# The head ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder as it comes from pretraining: no head."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=257, **TINY_LLAMA)).save_pretrained(folder)
    return folder


def without(folder: Path, out: Path, *names: str) -> Path:
    """The same model with these weights left out."""
    out.mkdir()
    (out / "config.json").write_text((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: w for name, w in weights.items() if name not in names}, out / "model.safetensors", {"format": "pt"}
    )
    return out


def test_a_pretrained_encoder_gets_a_fresh_head_the_same_on_every_peer(tmp_path: Path, encoder: Path) -> None:
    torch.manual_seed(1)
    one = open_classification(tmp_path, pretrained=str(encoder)).model.state_dict()
    torch.manual_seed(2)
    other = open_classification(tmp_path, pretrained=str(encoder)).model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    pretrained = load_file(encoder / "model.safetensors")
    assert all(torch.equal(one[f"bert.{name}"], weight) for name, weight in pretrained.items())
    assert one["classifier.weight"].shape == (2, 8)
    assert one["classifier.weight"].any()
    another = open_classification(tmp_path, pretrained=str(encoder), evaluated=39).model.state_dict()
    assert not torch.equal(one["classifier.weight"], another["classifier.weight"])


def test_only_the_head_may_be_missing(tmp_path: Path, encoder: Path) -> None:
    headless = without(encoder, tmp_path / "headless", "pooler.dense.weight", "pooler.dense.bias")
    assert open_classification(tmp_path, pretrained=str(headless))
    torn = without(encoder, tmp_path / "torn", "encoder.layer.1.output.dense.bias")
    with pytest.raises(DataError, match="is incomplete") as incomplete:
        open_classification(tmp_path, pretrained=str(torn))
    assert incomplete.value.why == "1 weights are missing, e.g. bert.encoder.layer.1.output.dense.bias"


def test_an_export_is_a_classifier_with_the_labels_names(tmp_path: Path, encoder: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    made = open_classification(tmp_path, pretrained=str(encoder))
    given = {name: torch.randn_like(parameter) for name, parameter in made.model.named_parameters()}
    made.export(given, tmp_path / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.config.id2label == {0: "bad", 1: "good"}
    assert all(torch.equal(parameter, given[name]) for name, parameter in loaded.named_parameters())
    again = open_classification(tmp_path, pretrained=str(tmp_path / "out"))
    assert again.evaluate({}) == made.evaluate(given)


def test_a_head_for_other_labels_is_refused(tmp_path: Path, encoder: Path) -> None:
    made = open_classification(tmp_path, pretrained=str(encoder))
    made.export({}, tmp_path / "out")
    three = {**CLASSIFICATION, "labels": ["bad", "good", "fair"]}
    with pytest.raises(DataError, match="has a head for other labels"):
        open_task(example_spec(tmp_path, three, pretrained=str(tmp_path / "out")), LocalOptions(device="cpu"))


def test_an_architecture_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="vit is no model for classification") as refused:
        open_classification(tmp_path, architecture="vit")
    assert "no classification head" in refused.value.why
