"""A spec has one canonical form, however its author wrote it, and its digest names all of it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from p2ptrain.errors import SpecError
from p2ptrain.run import PROTOCOL, digest_of, parse_spec, spec_from_canonical
from tests.unit.run.specs import LEFT_OUT, fields_with, spec_with, to_toml

RICH: dict[str, Any] = {
    "run.description": "Grüße θ",
    "model.config": {"hidden_size": 64, "tie_word_embeddings": True, "activation": "silu", "rope": [1, 2.5]},
    "data.sequence_length": 64,
    "method.betas": [0.9, 0.99],
    "method.overlap": 3,
    "eval.every": 4,
    "limits.norm_bound": 2.5,
    "swarm.min_peers": 2,
    "swarm.access": "private",
    "swarm.owners": ["12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"],
}


def shuffled(fields: dict[str, Any], order: random.Random) -> dict[str, Any]:
    items = order.sample(list(fields.items()), len(fields))
    return {key: shuffled(value, order) if isinstance(value, dict) else value for key, value in items}


@given(st.randoms())
def test_the_order_of_keys_in_the_toml_does_not_matter(order: random.Random) -> None:
    text = to_toml(shuffled(fields_with(RICH), order))
    assert parse_spec(text, "shuffled.toml").canonical() == spec_with(RICH).canonical()


def test_the_canonical_form_is_compact_sorted_json_with_defaults_filled_in() -> None:
    text = spec_with().canonical().decode()
    assert text.startswith(
        '{"data":{"held_out":0.05,"sequence_length":128,"source":"stdlib-python","tokenizer":"bytes"},'
    )
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_text_beyond_ascii_is_kept_as_it_is() -> None:
    assert "Grüße θ".encode() in spec_with(RICH).canonical()


def test_spelling_a_default_out_changes_nothing() -> None:
    spelled = {"method.inner_steps": 100, "method.betas": [0.9, 0.95], "data.held_out": 0.05, "run.protocol": PROTOCOL}
    assert spec_with(spelled).digest == spec_with().digest


def test_a_whole_number_for_a_decimal_one_changes_nothing() -> None:
    assert spec_with({"method.clip_norm": 1}).canonical() == spec_with({"method.clip_norm": 1.0}).canonical()


def test_the_canonical_form_has_every_field() -> None:
    fields = json.loads(spec_with().canonical())
    assert fields["task"] == {"kind": "language-modelling"}
    assert fields["model"]["trainable"] == []
    assert fields["model"]["lora"] is None
    assert fields["swarm"] == {"access": "public", "min_peers": 1, "owners": []}
    spoken = spec_with({"model.lora": {}, "model.trainable": ["head.*"], **COMPLETION})
    fields = json.loads(spoken.canonical())
    assert fields["model"]["lora"] == {"rank": 8, "alpha": 16.0, "targets": []}
    assert fields["model"]["trainable"] == ["head.*"]
    assert fields["task"] == {**COMPLETION["task"], "label_column": None, "labels": []}
    assert spec_from_canonical(spoken.canonical()) == spoken


COMPLETION: dict[str, Any] = {
    "data": {"source": "files", "paths": ["a.csv"]},
    "task": {"kind": "completion", "prompt": "{question}?", "completion": " {answer}"},
}
OTHER_VALUES: dict[str, Any] = {
    "run.name": "other",
    "run.description": "other",
    "model.architecture": "gpt2",
    "model.config": {"hidden_size": 64},
    "model.trainable": ["*.bias"],
    "model.lora": {"rank": 4},
    "data.tokenizer": "gpt2",
    "data.sequence_length": 129,
    "data.held_out": 0.06,
    "method.inner_steps": 200,
    "method.fragments": 5,
    "method.overlap": 0,
    "method.merge": "carry",
    "method.alpha": 0.25,
    "method.codec": "int8",
    "method.outer_lr": 0.4,
    "method.outer_momentum": 0.0,
    "method.lr": 0.002,
    "method.betas": [0.9, 0.99],
    "method.weight_decay": 0.0,
    "method.clip_norm": 2.0,
    "method.warmup_steps": 50,
    "method.schedule": "constant",
    "method.lr_floor": 0.0,
    "method.total_steps": 8000,
    "method.snapshot_every": 8,
    "eval.every": 4,
    "eval.sequences": 32,
    "limits.contribution_tokens": 1000,
    "limits.norm_bound": 2.0,
    "limits.rollback_depth": 16,
    "swarm.min_peers": 2,
    "swarm.access": "private",
    "swarm.owners": ["12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"],
}


def test_a_change_of_any_field_changes_the_digest() -> None:
    digests = {spec_with({key: value}).digest for key, value in OTHER_VALUES.items()}
    assert len(digests | {spec_with().digest}) == len(OTHER_VALUES) + 1
    assert spec_with().digest == digest_of(spec_with().canonical())


def test_no_field_is_missing_above() -> None:
    """One of each pair that excludes the other can't be changed alone; literals have one value."""
    alone = {"run.protocol", "model.pretrained", "model.revision", "data.source", "task.kind", "method.name"}
    spec = spec_with()
    keys = {f"{name}.{key}" for name, section in spec for key in type(section).model_fields}
    assert keys == OTHER_VALUES.keys() | alone


def test_a_spec_can_not_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec_with().method.lr = 1.0  # type: ignore[misc]


def test_rounds_and_the_last_height_follow_from_the_steps() -> None:
    method = spec_with({"method.inner_steps": 40, "method.fragments": 4, "method.total_steps": 600}).method
    assert method.steps_per_round == 10
    assert method.last_height == 60


def test_a_run_without_total_steps_has_no_last_height() -> None:
    assert spec_with({"method.total_steps": LEFT_OUT, "method.schedule": "constant"}).method.last_height is None


VALID = {
    "one fragment": {"method.fragments": 1},
    "blocking": {"method.overlap": 0},
    "the longest overlap": {"method.overlap": 99},
    "alpha spelled out with carry": {"method.merge": "carry", "method.alpha": 0.5},
    "another alpha": {"method.alpha": 1.0},
    "the longest warm-up": {"method.warmup_steps": 3999},
    "no warm-up": {"method.warmup_steps": 0},
    "constant with an end": {"method.schedule": "constant"},
    "pretrained": {"model.architecture": LEFT_OUT, "model.pretrained": "gpt2", "model.revision": "main"},
    "files": {"data.source": "files", "data.paths": ["*.txt"]},
    "a dataset": {"data.source": "dataset", "data.dataset": "allenai/c4", "data.subset": "en", "data.streaming": False},
    "the longest name": {"run.name": "a" * 40},
    "a completion": COMPLETION,
    "a completion with labels": {**COMPLETION, "task.label_column": "answer", "task.labels": ["no", "yes"]},
    "a dataset of examples": {
        **COMPLETION,
        "data": {"source": "dataset", "dataset": "boolq", "streaming": False},
    },
    "a classification": {
        **COMPLETION,
        "task": {"kind": "classification", "text": "{a}: {b}", "label_column": "c", "labels": ["no", "yes"]},
    },
    "adapters": {"model.lora": {"rank": 2, "alpha": 4, "targets": ["q_proj"]}, "model.trainable": ["*.bias"]},
}


@pytest.mark.parametrize("changes", VALID.values(), ids=VALID)
def test_what_fits_together_is_accepted(changes: dict[str, Any]) -> None:
    assert spec_with(changes).digest != b""


@pytest.mark.parametrize("value", ["nan", "[1.0, -inf]"])
def test_a_number_of_the_configuration_is_finite(value: str) -> None:
    """Canonical JSON has no other numbers."""
    with pytest.raises(SpecError) as refused:
        parse_spec(to_toml(fields_with({})).replace("[data]", f"[model.config]\nnumber = {value}\n[data]"), "test.toml")
    assert "a number in 'config' is not finite" in str(refused.value)
