"""Training a part: frozen parameters, and low-rank adapters that merge into an ordinary model."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from p2ptrain.diloco.fragments import Layout
from p2ptrain.errors import DataError, SpecError, StorageError
from p2ptrain.parameters import digest_of_frozen, shared_parameters
from p2ptrain.run import NO_DIGEST, RunSpec
from p2ptrain.tasks import LocalOptions, open_task
from p2ptrain.tasks.adapters import FILE, exported_adapters
from p2ptrain.tasks.model import build_model, exported_parameters
from p2ptrain.tasks.tokenizer import ByteTokenizer
from tests.unit.tasks.samples import CLASSIFICATION, COMPLETION, example_spec, tiny_spec


def build(spec: RunSpec) -> Any:
    return build_model(spec, ByteTokenizer())


def lora(**fields: Any) -> dict[str, Any]:
    return {"lora": {"rank": 2, "alpha": 3.0, **fields}}


def trained(model: torch.nn.Module) -> list[str]:
    return list(shared_parameters(model))


# Frozen parameters -------------------------------------------------------------------------------------------------


def test_only_what_a_pattern_names_is_trained() -> None:
    model = build(tiny_spec(model={"trainable": ["*.layers.1.*_proj.weight", "model.norm.weigh?"]}))
    assert set(trained(model)) == {
        "model.norm.weight",
        *(f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkvo"),
        *(f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    }
    assert trained(build(tiny_spec())) == [name for name, _ in model.named_parameters()]


def test_a_pattern_that_names_nothing_is_refused_with_names_next_to_it() -> None:
    with pytest.raises(
        SpecError, match=r"model.trainable: 'model.layer.0.mlp.up_proj.weight' matches nothing"
    ) as missed:
        build(tiny_spec(model={"trainable": ["*norm*", "model.layer.0.mlp.up_proj.weight"]}))
    assert "model.layers.0.mlp.up_proj.weight" in missed.value.why


# Adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "targets", "adapted"),
    [
        ("llama", [], 4),  # peft's choice: q_proj and v_proj
        ("gpt2", [], 2),  # c_attn
        ("llama", ["mlp.*"], 6),
        ("llama", ["model.layers.1.self_attn.k_proj"], 1),
        ("gpt2", ["*"], 8),
    ],
)
def test_adapters_sit_where_the_spec_wants_them_and_change_nothing_yet(
    architecture: str, targets: list[str], adapted: int
) -> None:
    spec = tiny_spec(architecture, model=lora(targets=targets), tie_word_embeddings=True)
    model, plain = build(spec).eval(), build(tiny_spec(architecture, tie_word_embeddings=True)).eval()
    names = trained(model)
    assert len(names) == 2 * adapted
    assert all(".lora_" in name for name in names)
    assert all(min(model.get_parameter(name).shape) == 2 for name in names)
    with torch.no_grad():
        own = {name.replace(".base_layer", ""): parameter for name, parameter in model.named_parameters()}
        for name, parameter in plain.named_parameters():  # drawn for another spec
            parameter.copy_(own[name])
        ids = torch.arange(20)[None]
        torch.testing.assert_close(model(ids).logits, plain(ids).logits)


def test_adapters_are_the_same_on_every_peer() -> None:
    torch.manual_seed(1)
    one, drawn = build(tiny_spec(model=lora())).state_dict(), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1)), "nobody else's random numbers are used up"
    other = build(tiny_spec(model=lora())).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    drawn_again = build(tiny_spec(model=lora(), evaluated=41)).state_dict()
    first = next(name for name in one if "lora_A" in name)
    assert not torch.equal(one[first], drawn_again[first])


def test_diloco_exchanges_the_adapters_alone() -> None:
    task = open_task(tiny_spec(model=lora()), LocalOptions(device="cpu"))
    tensors = shared_parameters(task.model)
    layout = Layout.of({name: p.shape for name, p in tensors.items()}, 2)
    assert sum(layout.sizes) == 4 * 2 * (8 + 8)


def test_patterns_add_to_the_adapters_and_a_head_is_trained_by_itself() -> None:
    norms = build(tiny_spec(model={**lora(), "trainable": ["*norm.weight"]}))
    assert sum("lora" in name for name in trained(norms)) == 8
    assert sum("norm" in name for name in trained(norms)) == 5
    bert = build(
        tiny_spec(
            "bert", task=CLASSIFICATION, data={"source": "files", "paths": ["x"], "sequence_length": 32}, model=lora()
        )
    )
    assert {name for name in trained(bert) if "lora" not in name} == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize(
    ("architecture", "targets", "told"),
    [
        ("llama", ["query_proj"], "'query_proj' matches nothing"),
        ("llama", ["model.layers.0"], "matches nothing"),
        ("llama", ["lm_head"], "matches nothing"),  # tied: what it would adapt is the embedding
        ("olmo3", [], "no default LoRA modules for the architecture 'olmo3'"),
    ],
)
def test_targets_that_can_not_be_adapted_are_refused(architecture: str, targets: list[str], told: str) -> None:
    config = {"num_key_value_heads": 2} if architecture == "olmo3" else {}
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, **config}
    with pytest.raises(SpecError, match=told) as refused:
        build(tiny_spec(architecture, model=lora(targets=targets), tie_word_embeddings=True, **small))
    assert refused.value.next_step


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DataError, match="LoRA") as missing:
        build(tiny_spec(model=lora()))
    assert missing.value.next_step == 'pip install "p2ptrain[lora]"'


# Exports -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_dataset_cache")
@pytest.mark.parametrize(
    ("architecture", "task"),
    [("llama", COMPLETION), ("gpt2", COMPLETION), ("bert", CLASSIFICATION), ("llama", CLASSIFICATION)],
)
def test_an_export_of_adapters_is_an_ordinary_model_that_does_the_same(
    tmp_path: Path, architecture: str, task: dict[str, Any]
) -> None:
    spec = example_spec(tmp_path, task, architecture=architecture, model=lora())
    made = open_task(spec, LocalOptions(device="cpu"))
    made.load_data(0)
    given = {name: torch.randn_like(parameter) for name, parameter in shared_parameters(made.model).items()}
    before = copy.deepcopy(made.model.state_dict())
    found = made.evaluate(given)
    assert found != made.evaluate({})
    made.export(given, tmp_path / "out")
    frozen = [name for name in before if name not in given]
    assert all(torch.equal(made.model.state_dict()[name], before[name]) for name in frozen), "merged into a copy"
    again = open_task(example_spec(tmp_path, task, pretrained=str(tmp_path / "out")), LocalOptions(device="cpu"))
    again.load_data(0)
    assert not any("lora" in name for name, _ in again.model.named_parameters())
    merged = again.evaluate({})
    assert merged.loss == pytest.approx(found.loss, rel=1e-4)
    kept, rest = exported_parameters(spec, tmp_path / "out")
    assert rest is None, "merged"
    assert list(kept) == list(given)
    assert all(torch.equal(kept[name], given[name]) for name in given)


def test_damaged_adapters_are_an_error(tmp_path: Path) -> None:
    for content in (None, b"", b"\0" * 100):
        if content is not None:
            (tmp_path / FILE).write_bytes(content)
        with pytest.raises(StorageError, match="can't be read"):
            exported_adapters(tmp_path)


def test_an_export_of_a_part_is_read_by_what_was_trained(tmp_path: Path) -> None:
    spec = tiny_spec(model={"trainable": ["*.layers.1.*"]})
    made = open_task(spec, LocalOptions(device="cpu"))
    given = {name: torch.randn_like(parameter) for name, parameter in shared_parameters(made.model).items()}
    made.export(given, tmp_path)
    kept, rest = exported_parameters(spec, tmp_path)
    assert rest == digest_of_frozen(made.model) != NO_DIGEST
    assert list(kept) == list(given)
    assert all(torch.equal(kept[name], given[name]) for name in given)
